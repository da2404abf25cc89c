"""Scores of n samples to each of several questions; questions are the clusters of every standard error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any


def pass_at_1(per_question: Sequence[float]) -> dict[str, float | int]:
    """Mean over questions of each one's share of right samples, with the standard error over questions.

    Samples of one question are not independent, so questions are the clusters (Miller 2024, 'Adding error bars to
    evals'). With a single question the error is unknown: nan.

    >>> pass_at_1([1.0, 0.5, 0.0])["pass@1"]
    0.5
    """
    count = len(per_question)
    mean = sum(per_question) / count
    variance = sum((x - mean) ** 2 for x in per_question) / (count - 1) if count > 1 else math.nan
    return {"pass@1": mean, "stderr": math.sqrt(variance / count), "questions": count}


def pass_at_k(correct: int, n: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold a right one: unbiased for k tries.

    1 - C(n - correct, k) / C(n, k) (Chen et al. 2021, 'Evaluating large language models trained on code').

    >>> pass_at_k(1, 4, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(correct: Sequence[bool], answers: Sequence[str]) -> float:
    """Whether the most frequent answer to a question is right (maj@n); of several a draw decides: their share.

    Right answers count as one, however they are written; wrong ones by their text. Samples without an answer do not
    vote.
    """
    votes: Counter[str] = Counter(
        answer for right, answer in zip(correct, answers, strict=True) if answer and not right
    )
    right, most = sum(correct), max(votes.values(), default=0)
    if right == 0 or right < most:
        return 0.0
    return 1.0 / (1 + sum(count == right for count in votes.values()))


def scores(correct: Sequence[bool], answers: Sequence[str] | None, n: int) -> dict[str, Any]:
    """All scores of question-major samples: ``correct`` [Q * n], ``answers`` where a majority makes sense.

    ``pass@k`` for the powers of 2 up to n and n itself, each with its standard error; ``correct`` per question, so
    that any other score can be computed from disk.
    """
    groups = [correct[i : i + n] for i in range(0, len(correct), n)]
    counts = [sum(group) for group in groups]
    per_question = [count / n for count in counts]
    out: dict[str, Any] = {**pass_at_1(per_question), "n": n, "per_question": per_question, "correct": counts}
    tries = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    at_k = {k: pass_at_1([pass_at_k(count, n, k) for count in counts]) for k in tries}
    out["pass@k"] = {str(k): {"value": each["pass@1"], "stderr": each["stderr"]} for k, each in at_k.items()}
    if answers is not None:
        parts = [answers[i : i + n] for i in range(0, len(answers), n)]
        voted = pass_at_1([majority(*pair) for pair in zip(groups, parts, strict=True)])
        out["maj@n"] = {"value": voted["pass@1"], "stderr": voted["stderr"]}
    return out


def difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean change and its standard error, paired by question."""
    score = pass_at_1([a - b for b, a in zip(before, after, strict=True)])
    return score["pass@1"], score["stderr"]
