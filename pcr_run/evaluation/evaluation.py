"""Pass@1 with its standard error, and perplexity of held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pcr_run.data import Completion, Item, Reward, RolloutWorker, Sampling
from pcr_run.evaluation.scores import scores
from pcr_run.model.packing import Tokens
from pcr_run.model.policy import sampled_logprobs, split
from pcr_run.ragged import Ragged
from pcr_run.reward import stop_on_failures
from pcr_run.schema import RewardConfig
from pcr_run.seeds import derive


@dataclass(frozen=True)
class Questions:
    """Held-out questions of one task with their prompts as token ids, and what judges the answers.

    ``n``: samples of each (None: the evaluator's); ``votes``: answers can be compared, so that a majority means
    something; ``unjudged``: why, by id, for questions that nothing can judge and that are counted as wrong or left out.
    """

    task: str
    items: Sequence[Item]
    prompts: Sequence[Sequence[int]]
    verifier: Reward
    n: int | None = None
    votes: bool = False
    unjudged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluator:
    """Measures a policy on several tasks and on text.

    ``n`` samples per question; the same ``seed`` at every call, so that two evaluations of one run share their sampling
    noise as far as the policies agree. ``text``: documents as token ids [T]. ``limits``: when verdicts stop the run.
    """

    tasks: Sequence[Questions]
    text: Sequence[Tensor]
    n: int
    sampling: Sampling
    seed: int
    limits: RewardConfig

    def __call__(
        self, worker: RolloutWorker, model: PreTrainedModel, decode: Callable[[Sequence[int]], str]
    ) -> dict[str, Any]:
        """``{"tasks": {name: score}, "perplexity": float}``; for the fields of a score see ``scores``."""
        out: dict[str, Any] = {"tasks": {}}
        for questions in self.tasks:
            n = questions.n or self.n
            seed = derive(self.seed, "evaluation", questions.task)
            completions: dict[int, list[Completion]] = {}
            for part in worker.generate(questions.prompts, n, self.sampling, seed):
                completions |= part
            items = [item for item in questions.items for _ in range(n)]
            sampled = [completion for _, group in sorted(completions.items()) for completion in group]
            texts = [decode(completion.token_ids) for completion in sampled]
            judged = questions.verifier(items, texts)
            stop_on_failures(self.limits, judged)
            votes = [score.answer for score in judged] if questions.votes else None
            out["tasks"][questions.task] = {
                **scores([score.verdict == "correct" for score in judged], votes, n),
                "temperature": self.sampling.temperature,
                "truncated": sum(completion.finish == "length" for completion in sampled) / len(sampled),
                "unclosed_thoughts": sum(score.thinking for score in judged) / len(judged),
                "ungradable": dict(questions.unjudged),
            }
        if self.text:
            out["perplexity"] = perplexity(model, self.text)
        return out


def perplexity(model: PreTrainedModel, documents: Sequence[Tensor]) -> float:
    """exp of the mean negative log-likelihood per token, the first token of each document not counted; may be inf."""
    policy = split(model)
    total, tokens = 0.0, 0
    for batch in alike(documents):
        rows = Ragged(tuple(map(len, batch)), model.device)
        packed = Tokens(torch.cat(batch).to(model.device), rows)
        values = sampled_logprobs(policy, packed, rows.positions.nonzero().flatten(), temperature=1.0)
        total, tokens = total - values.sum(dtype=torch.float64).item(), tokens + len(values)
    mean = total / tokens
    return math.exp(mean) if mean < 700 else math.inf  # math.exp raises instead


def alike(documents: Sequence[Tensor], tokens: int = 4096) -> Iterator[list[Tensor]]:
    """Batches of documents of similar length, at most ``tokens`` with their padding (or a single one that has more)."""
    batch: list[Tensor] = []
    for document in sorted(documents, key=len):
        if batch and (len(batch) + 1) * len(document) > tokens:
            yield batch
            batch = []
        batch.append(document)
    if batch:
        yield batch
