"""Claims: paired as they say, judged by tests that scipy gives too, corrected for their number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fake_sweep import cell, declare, measured, training
from scipy import stats

from pcr_run.report import build, claims
from pcr_run.report.cells import load
from pcr_run.report.statistics import exclusive_holm, power, t_tail
from pcr_run.report.traits import TRAITS, theorem_5_1

BETTER = {
    "text": "pcr is better",
    "statistic": "trained",
    "of": {"resolver.name": "pcr"},
    "against": {"resolver.name": "none"},
    "direction": "greater",
    "interest": 1,
}


def scored(sweep, resolver, seed, after, **extra):
    return cell(sweep, resolver, seed, [0.5], [after], metrics=training(), **extra)


def judged(effects, **changes):
    claim = {**BETTER, **changes}
    return claims.verdict(*exclusive_holm([claims.pvalues(claim, effects)])[0])


def test_runs_are_paired_by_seed_and_by_what_else_varies(tmp_path):
    for seed in range(3):
        for beta in (0.01, 0.04):
            scored(tmp_path, "none", seed, 0.3 + 0.1 * seed + beta, beta=beta)
            scored(tmp_path, "pcr", seed, 0.3 + 0.1 * seed + 2 * beta, beta=beta)
    scored(tmp_path, "pcr", 7, 1.0, beta=0.04)  # without a partner
    scored(tmp_path, "pcr", 0, 1.0, beta=0.5)
    assert claims.differences(BETTER, load(tmp_path)) == pytest.approx([2.5] * 3)
    assert claims.differences({**BETTER, "where": {"learner.beta": 0.04}}, load(tmp_path)) == pytest.approx([4.0] * 3)


def test_a_spread_is_the_range_over_the_values_of_a_key(tmp_path):
    for seed, beta in itertools.product(range(2), (0.01, 0.04, 0.16)):
        scored(tmp_path, "none", seed, 0.5 + beta, beta=beta)
        scored(tmp_path, "pcr", seed, 0.5, beta=beta)
    assert claims.differences({**BETTER, "spread": "learner.beta"}, load(tmp_path)) == pytest.approx([-15.0] * 2)


def test_a_claim_without_a_second_side_is_compared_with_its_value(tmp_path):
    for seed in range(3):
        scored(tmp_path, "pcr", seed, 0.6)
    found = claims.differences({**BETTER, "against": None, "value": 50.0}, load(tmp_path))
    assert found == pytest.approx([10.0] * 3)


def test_p_values_are_those_of_scipy():
    values = [0.3, 1.2, 0.8, -0.1, 0.9]
    assert t_tail(values, 0.2) == pytest.approx(stats.ttest_1samp(values, 0.2, alternative="greater").pvalue)
    greater, too_small = claims.pvalues(BETTER, values)
    assert greater == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    assert too_small == pytest.approx(stats.ttest_1samp(values, 1, alternative="less").pvalue)
    less, _ = claims.pvalues({**BETTER, "direction": "less"}, values)
    assert less == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue)
    inside, outside = claims.pvalues({**BETTER, "direction": "equal"}, values)
    low = stats.ttest_1samp(values, -1, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 1, alternative="less").pvalue
    assert inside == pytest.approx(max(low, high))
    assert outside == pytest.approx(min(1.0, 2 * min(1 - low, 1 - high)))


@pytest.mark.parametrize(
    ("effects", "changes", "outcome"),
    [
        ([5.0, 6.0, 5.5, 5.2, 5.9], {}, "supported"),
        ([0.10, 0.12, 0.11, 0.09], {}, "supported, but small"),
        ([-5.0, -6.0, -5.5], {}, "contradicted"),
        ([0.0, 0.1, -0.1, 0.05], {}, "contradicted"),  # no effect of interest is left
        ([5.0, -6.0, 2.0], {}, "undecided"),
        ([-5.0, -6.0, -5.5], {"direction": "less"}, "supported"),
        ([0.1, -0.1, 0.0, 0.1], {"direction": "equal"}, "supported"),
        ([5.0, 6.0, 5.5], {"direction": "equal"}, "contradicted"),
        ([0.0, 0.0, 0.0], {"direction": "equal"}, "supported"),
        ([2.0, 2.0], {}, "supported"),
        ([2.0], {}, "undecided"),
        ([], {}, "undecided"),
    ],
)
def test_outcomes(effects, changes, outcome):
    assert judged(effects, **changes) == outcome


def test_more_claims_need_more_evidence():
    alone = exclusive_holm([(0.03, 0.9)])
    assert alone[0][0] == pytest.approx(0.03)
    several = exclusive_holm([(0.03, 0.9), (0.2, 0.6), (0.5, 0.5)])
    assert several[0][0] == pytest.approx(0.09)
    assert exclusive_holm([(0.01, 0.02), (0.5, 0.6)]) == [(0.02, 0.04), (1.0, 1.0)]
    assert exclusive_holm([]) == []


def test_families_hold_their_error_rate():
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        effects = random.standard_normal((6, 5))
        pairs = [claims.pvalues({**BETTER, "interest": 0.0}, row) for row in effects]
        wrong += any(min(pair) < 0.05 for pair in exclusive_holm(pairs))
    assert wrong / 400 < 0.05 * 2 + 0.03  # with no effect and none of interest both hypotheses of a claim are true
    wrong = 0
    for _ in range(400):
        pairs = [claims.pvalues({**BETTER, "interest": 100.0}, row) for row in random.standard_normal((6, 5))]
        wrong += any(pair[0] < 0.05 for pair in exclusive_holm(pairs))
    assert wrong / 400 < 0.05 + 0.03


def test_power_is_that_of_simulated_tests():
    values = [0.3, 1.2, 0.8, -0.1, 0.9]
    spread = np.std(values, ddof=1)
    samples = np.random.default_rng(0).normal(0.7, spread, (20_000, 5))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1, alternative="greater").pvalue < 0.05)
    assert power(0.7, values) == pytest.approx(found, abs=0.015)
    assert power(0.0, values) == pytest.approx(0.05, abs=1e-6)


def test_traits_are_what_their_records_say(tmp_path):
    run = cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=training(), layers=measured(layers=4))
    (found,) = load(tmp_path)
    assert run.name == found.directory.name
    assert TRAITS["cos_mlp_deep"](found) == pytest.approx(-0.25)  # layers 2 and 3
    assert TRAITS["alpha_mlp_over_attention"](found) == pytest.approx(0.5)
    assert TRAITS["roughness"](found) == pytest.approx(math.log(2))
    empty = tmp_path / "empty"
    cell(empty, "pcr", 0, [0.1], [0.2])
    assert all(math.isnan(trait(load(empty)[0])) for trait in TRAITS.values())


def test_the_share_against_stability_counts_what_the_rule_acted_on(tmp_path):
    lines = [{"step": 1, "module": module, "layer": 0, "cos_update_sta": value} for module, value in
             (("mlp", 0.1), ("mlp", -0.1), ("attention", -0.5), ("mlp", None))]  # fmt: skip
    cell(tmp_path, "pcr", 0, [0.1], [0.2], layers=lines)
    (found,) = load(tmp_path)
    found.config["resolver.modules"] = "mlp"
    assert TRAITS["share_against_stability"](found) == 0.5
    found.config["resolver.modules"] = "all"
    assert TRAITS["share_against_stability"](found) == pytest.approx(2 / 3)


def test_theorem_5_1_has_its_closed_form():
    gains = [1 - (r / (1 + r)) / min(r, 1.0) for r in (0.25, 1.0, 4.0)]
    assert theorem_5_1(3) == pytest.approx([np.mean(gains)] * 3, abs=0.01)


def test_claims_of_several_experiments_are_corrected_together(tmp_path):
    cells = [scored(tmp_path, rule, seed, 0.5 + 0.01 * seed * (rule == "pcr") + 0.02 * (rule == "pcr"))
             for rule in ("none", "pcr") for seed in range(4)]  # fmt: skip
    declare(tmp_path, "a", cells, claims={"better": BETTER})
    build.write([tmp_path])
    alone = (tmp_path / "report/tables/a-claims.csv").read_text()
    declare(tmp_path, "b", cells, claims={"worse": {**BETTER, "direction": "less"}})
    build.write([tmp_path])
    assert (tmp_path / "report/tables/a-claims.csv").read_text() != alone
    assert "contradicted" in (tmp_path / "report/tables/b-claims.csv").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"statistic": "trianed"}, "no run has the measure trianed"),
        ({"of": {"resolver.name": "pcgrad"}}, "no such runs yet"),
        ({"against": {"resolver.name": "pcgrad"}}, "no such runs yet"),
        ({}, "no two runs differ in nothing else"),
        ({"spread": "learner.beta", "against": None}, "needs two values of learner.beta"),
    ],
)
def test_a_claim_that_nothing_decides_says_why(tmp_path, changes, reason):
    cells = [scored(tmp_path, "none", 0, 0.5), scored(tmp_path, "pcr", 1, 0.5)]
    declare(tmp_path, "a", cells, claims={"better": {**BETTER, **changes}})
    build.write([tmp_path])
    assert f"undecided: {reason}" in (tmp_path / "report/tables/a-claims.csv").read_text()
