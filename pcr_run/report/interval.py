"""A mean with its 95% t-interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, half-width of the two-sided 95% t-interval); no half-width for fewer than two values."""
    if len(values) < 2:
        return fmean(values), None
    return fmean(values), t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def t_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t above 1/2, by bisection of its exact distribution function."""
    low, high = 0.0, 1.0
    while _within(high, df) < 2 * probability - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < 2 * probability - 1 else (low, middle)
    return high


def _within(t: float, df: int) -> float:
    """P(|T| < t) for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    cosine = math.cos(angle)
    term = total = cosine if df % 2 else 1.0
    for k in range(2 + df % 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if df % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if df > 1 else 0.0))
