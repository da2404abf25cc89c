"""Is a ratio worse than its baseline, or is the machine only noisy? A sign test over interleaved rounds decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import quantile_test

MARGIN = 1.1
"""A ratio is worse where its median lies beyond that of the baseline times this."""
LEVEL = 0.05
FEWEST = 5
"""Rounds: with fewer than these even all of them beyond the bound are no evidence at that level (2^-5 < 0.05)."""


@dataclass(frozen=True)
class Outcome:
    """A ratio to ``none`` beside its baseline: ``worse`` (beyond noise), ``unclear`` or ``good`` (beyond noise)."""

    size: str
    learner: str
    ratio: float
    bound: float
    verdict: str

    def __str__(self) -> str:
        return f"{self.size} {self.learner}: x{self.ratio:.2f} of none, bound x{self.bound:.2f}: {self.verdict}"


def judge(ratios: Sequence[float], bound: float, more_is_better: bool) -> str:
    """Whether the median of ``ratios``, one a round, lies on the wrong side of ``bound``.

    The sign test of a median (scipy's ``quantile_test``) asks for no shape of the noise, and a few rounds that another
    process has disturbed move it little.
    """

    def beyond(alternative: str) -> bool:
        return bool(quantile_test(ratios, q=bound, p=0.5, alternative=alternative).pvalue <= LEVEL)

    wrong, right = ("less", "greater") if more_is_better else ("greater", "less")
    return "worse" if beyond(wrong) else "good" if beyond(right) else "unclear"


def outcomes(found: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Every learner of ``found`` that a baseline of its size and share of zero advantages has; TRL's ratio may grow."""
    known = {(each["size"], each["zero"]): each for each in baselines}
    made = []
    for each in found:
        before = known.get((each["size"], each["zero"]), {})
        for learner in before:
            if learner not in ("size", "zero", "none") and learner in each:
                theirs = learner == "trl"
                bound = before[learner]["to_none"] * (1 / MARGIN if theirs else MARGIN)
                row = each[learner]
                verdict = judge(row["ratios"], bound, theirs)
                made.append(Outcome(each["size"], learner, row["to_none"], bound, verdict))
    return made
