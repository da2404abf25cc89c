"""The reward that the training loop calls: the parts, weighted and added, each kept by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pcr_run.data import Item, Score, Verdict
from pcr_run.errors import RunError
from pcr_run.reward import answer
from pcr_run.reward.model import RewardModel
from pcr_run.reward.verify import CodeReward, MathReward
from pcr_run.reward.workers import Pool
from pcr_run.schema import RewardConfig


class Combined:
    """``correctness`` by the verifier, ``format``, and ``model`` where a reward model is given.

    The verdict is always the verifier's: it is what Pass@1 counts, whatever the policy is trained on.
    """

    def __init__(
        self,
        reward: RewardConfig,
        verifier: MathReward | CodeReward,
        model: RewardModel | None,
        pool: Pool,
        thinking: tuple[str, str],
    ) -> None:
        self._reward, self._verifier, self._model, self._pool = reward, verifier, model, pool
        self._thinking = thinking

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each pair, in order."""
        answers = [answer.visible(text, self._thinking) for text in responses]
        scores = self._verified(items, answers)
        parts = [{"correctness": self._reward.correctness * score.value} for score in scores]
        if self._reward.format:
            well_formed = answer.fenced if self._reward.verifier == "sandbox" else lambda text: bool(answer.boxed(text))
            for part, text in zip(parts, answers, strict=True):
                part["format"] = self._reward.format * well_formed(text)
        if self._model:
            for part, value in zip(parts, self._model(items, responses), strict=True):
                part["model"] = self._reward.model * value
        return [
            replace(score, value=sum(part.values()), parts=part, thinking=answer.thinks_on(text, self._thinking))
            for score, part, text in zip(scores, parts, responses, strict=True)
        ]

    def _verified(self, items: Sequence[Item], answers: Sequence[str]) -> list[Score]:
        """The verifier's scores; an item that cannot be judged never meets it."""
        pairs = [(item, text) for item, text in zip(items, answers, strict=True) if not item.unjudged]
        judged = iter(self._verifier([item for item, _ in pairs], [text for _, text in pairs]))
        return [Score(0.0, "wrong", detail=item.unjudged) if item.unjudged else next(judged) for item in items]

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def stop_on_failures(reward: RewardConfig, scores: Sequence[Score]) -> None:
    """Raise RunError when more of a step's responses could not be judged than ``reward`` allows."""
    counts = Counter(score.verdict for score in scores)
    limits: tuple[tuple[Verdict, str], ...] = (("error", "max_failed"), ("unparsed", "max_unparsed"))
    for verdict, key in limits:
        share, limit = counts[verdict] / max(1, len(scores)), getattr(reward, key)
        if share > limit:
            example = next((score.detail for score in scores if score.verdict == verdict and score.detail), "")
            raise RunError(
                f"{counts[verdict]} of {len(scores)} responses got the verdict {verdict!r}, more than "
                f"reward.{key}={limit:g} allows{': ' + example if example else ''}"
            )
