"""What is said of scores over seeds and questions. Values are plain numbers; nothing here knows what they mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

RESAMPLES, SEED = 2000, 20260206


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, half-width of the two-sided 95% t-interval); no half-width for fewer than two values."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, None
    return mean, half_width(float(np.std(values, ddof=1)) / math.sqrt(n), n)


def half_width(error: float, n: int) -> float:
    """Half the width of the two-sided 95% t-interval of a mean of ``n`` values with this standard error."""
    return float(special.stdtrit(n - 1, 0.975)) * error


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean without the lowest and the highest quarter of the values, rounded down (Agarwal et al. 2021)."""
    cut = len(values) // 4
    return float(np.mean(np.sort(values)[cut : len(values) - cut]))


def probability_of_improvement(new: Sequence[float], old: Sequence[float]) -> float:
    """Share of pairs in which ``new`` is higher, ties half: Mann and Whitney's U over their number."""
    sign = np.sign(np.subtract.outer(new, old))
    return float(np.mean((sign + 1) / 2))


def t_tail(values: Sequence[float], null: float) -> float:
    """p of the one-sided t-test whose null hypothesis is that the mean is at most ``null``."""
    n, error = len(values), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    if error == 0:  # every value is the same
        return float(mean <= null)
    return float(special.stdtr(n - 1, (null - mean) / error))


def exclusive_holm(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """p-values of claims, two each, corrected for all of them.

    Holm's step-down procedure. Of the two null hypotheses of a claim at most one is true, so never more than
    ``len(pairs)`` are, and no p-value is multiplied by more than that (Shaffer 1986).
    """
    flat = [p for pair in pairs for p in pair]
    adjusted, highest = [0.0] * len(flat), 0.0
    for rank, index in enumerate(sorted(range(len(flat)), key=lambda i: flat[i])):
        highest = max(highest, min(1.0, flat[index] * min(len(pairs), len(flat) - rank)))
        adjusted[index] = highest
    return list(zip(adjusted[::2], adjusted[1::2], strict=True))


def power(effect: float, values: Sequence[float], level: float = 0.05, sides: int = 1) -> float:
    """Probability that a t-test of the mean of ``len(values)`` numbers finds ``effect``, given their spread.

    That of the noncentral t distribution, whose form in scipy is nan for small n: by quadrature over the quantiles of
    the observed standard deviation.
    """
    n, spread = len(values), float(np.std(values, ddof=1))
    if spread == 0:
        return float(effect > 0)
    return _power(effect / spread * math.sqrt(n), n, level, sides)


def smallest_effect(differences: Sequence[float], level: float = 0.05, power: float = 0.8) -> float | None:
    """The mean difference that a two-sided paired t-test finds with ``power``, given the spread that was observed.

    None for fewer than two differences.
    """
    n = len(differences)
    if n < 2:
        return None
    most = 2 * special.stdtrit(n - 1, 1 - level / 2) + 4
    shift = optimize.brentq(lambda shift: _power(shift, n, level, 2) - power, 0, most)
    return float(shift * np.std(differences, ddof=1) / math.sqrt(n))


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes on [-1, 1] and their weights; finding them takes a third of a second."""
    nodes, weights = np.polynomial.legendre.leggauss(500)
    return nodes, weights


def _power(shift: float, n: int, level: float, sides: int) -> float:
    """``shift``: the true mean in units of its true standard error."""
    nodes, weights = _quadrature()
    observed = np.sqrt(2 * special.gammaincinv((n - 1) / 2, (nodes + 1) / 2) / (n - 1))
    critical = special.stdtrit(n - 1, 1 - level / sides) * observed  # of the mean, in units of its true error
    found = special.ndtr(shift - critical) + (special.ndtr(-shift - critical) if sides == 2 else 0.0)
    return float(found @ weights) / 2


def hierarchical_bootstrap(differences: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """95% percentile interval of a mean difference from resampled seeds and resampled questions.

    ``differences``: for each benchmark one array [seeds, questions]; their means are averaged. Every seed answers the
    same questions, so both are drawn independently and crossed (Owen 2007, "The pigeonhole bootstrap"); a draw of seeds
    is shared by the benchmarks. None where a benchmark has fewer than two questions and there is one seed.
    """
    seeds = len(differences[0])
    if seeds < 2 and all(d.shape[1] < 2 for d in differences):
        return None
    random = np.random.default_rng(SEED)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    total = np.zeros(RESAMPLES)
    for d in differences:
        questions = d.shape[1]
        columns = random.multinomial(questions, np.full(questions, 1 / questions), RESAMPLES) / questions
        total += ((rows @ d) * columns).sum(axis=1)
    low, high = np.percentile(total / len(differences), [2.5, 97.5])
    return float(low), float(high)
