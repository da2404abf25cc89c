"""What a report says of scores, against other formulas and simulations."""

from __future__ import annotations

import math
from statistics import stdev

import numpy as np
import pytest
from scipy import stats

from pcr_run.report.statistics import (
    hierarchical_bootstrap,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    smallest_effect,
)


def test_the_interval_is_students():
    values = [0.1, 0.4, 0.2, 0.35]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert half == pytest.approx(3.182446305284263 * stdev(values) / 2)  # a printed table's quantile


def test_one_value_has_a_mean_and_no_interval():
    assert mean_interval([0.3]) == (0.3, None)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_the_interquartile_mean_is_that_of_scipy(n):
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_the_probability_of_improvement_is_mann_and_whitneys():
    random = np.random.default_rng(0)
    new, old = random.integers(0, 6, 7), random.integers(0, 5, 9)
    u = stats.mannwhitneyu(new, old).statistic
    assert probability_of_improvement(new, old) == pytest.approx(u / (7 * 9))
    assert probability_of_improvement([1, 2], [0, 0]) == 1
    assert probability_of_improvement([1, 1], [1, 1]) == 0.5


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_smallest_effect_is_found_in_80_percent_of_experiments(n):
    random = np.random.default_rng(n)
    spread = 2.5
    differences = random.normal(size=n)
    differences = differences / np.std(differences, ddof=1) * spread
    effect = smallest_effect(list(differences))
    runs = random.normal(effect, spread, (40_000, n))
    found = stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05
    assert np.mean(found) == pytest.approx(0.8, abs=0.01)
    assert smallest_effect([1.0]) is None


def test_the_smallest_effect_is_that_of_the_noncentral_t():
    differences = [0.5, 1.0, -0.25, 0.75, 1.5, 0.25]
    shift = smallest_effect(differences) / (stdev(differences) / math.sqrt(6))
    critical = stats.t.ppf(0.975, 5)
    assert stats.nct.sf(critical, 5, shift) + stats.nct.cdf(-critical, 5, shift) == pytest.approx(0.8, abs=1e-6)


def test_the_bootstrap_of_one_seed_is_that_of_its_questions():
    d = np.random.default_rng(1).normal(1.0, 3.0, (1, 200))
    low, high = hierarchical_bootstrap([d])
    found = stats.bootstrap((d[0],), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.06)


def test_the_bootstrap_is_over_seeds_and_questions_at_once():
    """Its variance is that of the crossed design: of seeds, of questions, and of what is left."""
    random = np.random.default_rng(2)
    d = random.normal(0, 2, (8, 1)) + random.normal(0, 3, (1, 40)) + random.normal(0, 1, (8, 40))
    low, high = hierarchical_bootstrap([d])
    loops = []
    for _ in range(3000):  # the same by explicit draws
        rows, columns = random.integers(0, 8, 8), random.integers(0, 40, 40)
        loops.append(d[np.ix_(rows, columns)].mean())
    assert (low, high) == pytest.approx(tuple(np.percentile(loops, [2.5, 97.5])), abs=0.15)
    only_questions = hierarchical_bootstrap([d.mean(axis=0, keepdims=True)])
    assert high - low > only_questions[1] - only_questions[0]


def test_benchmarks_weigh_the_same_whatever_their_number_of_questions():
    few, many = np.full((3, 2), 4.0), np.zeros((3, 500))
    assert hierarchical_bootstrap([few, many]) == pytest.approx((2.0, 2.0))


def test_the_bootstrap_repeats_itself_and_refuses_a_single_number():
    d = np.random.default_rng(3).normal(size=(3, 10))
    assert hierarchical_bootstrap([d]) == hierarchical_bootstrap([d])
    assert hierarchical_bootstrap([np.array([[1.0]])]) is None
