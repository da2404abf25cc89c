"""What a step's responses were worth, as flat metrics, and some of them as transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import torch

from pcr_run.data import Rollout, Score, Verdict
from pcr_run.learner import objective


def reward_metrics(rollout: Rollout, scores: Sequence[Score], rewards: torch.Tensor) -> dict[str, float]:
    """What the sampled responses were worth: means over all N responses, counts over groups and verdicts."""
    N = len(scores)
    parts: Counter[str] = Counter()
    for score in scores:
        parts.update(score.parts)
    verdicts = Counter(score.verdict for score in scores)
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std(unbiased=False).item(),
        "pass_rate": verdicts["correct"] / N,
        **{f"reward/{name}": total / N for name, total in sorted(parts.items())},
        **{f"verdict/{verdict}": verdicts[verdict] for verdict in get_args(Verdict)},
        "zero_advantage_groups": int(objective.zero_advantage(rewards).sum()),
        "unclosed_thoughts": sum(score.thinking for score in scores) / N,
        "truncated": sum(completion.finish == "length" for completion in rollout.completions),
        "response_tokens": sum(len(completion.token_ids) for completion in rollout.completions) / N,
    }


def transcripts(step: int, rollout: Rollout, scores: Sequence[Score], count: int) -> list[dict[str, Any]]:
    """Records of ``count`` responses (all, where there are fewer), spread over the prompts."""
    N = len(scores)
    count = min(count, N)
    chosen = [i * N // count for i in range(count)]
    return [
        {
            "step": step,
            "item": rollout.items[i // rollout.group].id,
            "prompt": list(rollout.items[i // rollout.group].prompt),
            "response": rollout.texts[i],
            "finish": rollout.completions[i].finish,
            "reward": scores[i].value,
            "verdict": scores[i].verdict,
            "detail": scores[i].detail,
        }
        for i in chosen
    ]
