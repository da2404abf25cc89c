"""What lm-eval measured, in tables and figures."""

from __future__ import annotations

from statistics import fmean

import pytest
from fake_sweep import cell, declare, training
from scipy import stats
from test_report_figures import texts
from test_report_tables import made

from pcr_run.report import build
from pcr_run.report.cells import load
from pcr_run.report.experiment import Figure
from pcr_run.report.figures import draw
from pcr_run.report.measures import final, series

RIGHT = {"none": {0: [1, 0, 0, 1], 1: [1, 1, 0, 0]}, "pcr": {0: [1, 1, 0, 1], 1: [1, 1, 1, 1]}}
"""Whether each of four questions is right after training, by rule and seed."""


def evaluation(step: int, right: list[int], words: float | None = 9.5) -> dict:
    mmlu = {"metrics": {"acc": {"value": fmean(right), "stderr": 0.1}}, "questions": 4, "shots": 5, "version": 1}
    wikitext = {"metrics": {"word_perplexity": {"value": words, "stderr": None}}, "questions": 2}
    harness = {"mmlu": {**mmlu, "per_question": right}, "wikitext": wikitext}
    return {"step": step, "tasks": {"math": {"pass@1": 0.5}}, "harness": harness}


@pytest.fixture
def sweep(tmp_path):
    for rule, seeds in RIGHT.items():
        for seed, right in seeds.items():
            evaluations = [evaluation(0, [1, 1, 1, 0]), evaluation(3, [0, 0, 0, 0]), evaluation(6, right, 10.25 + seed)]
            cell(tmp_path, rule, seed, [0.1, 0.3], [0.4, 0.5], metrics=training(), evaluations=evaluations)
    return tmp_path


def test_a_measure_is_that_of_the_last_evaluation_and_accuracies_are_in_percent(sweep):
    one = load(sweep)[0]
    assert (final(one, "mmlu/acc", "before"), final(one, "mmlu/acc")) == (75, 50)
    assert final(one, "wikitext/word_perplexity") == 10.25
    assert [list(values) for values in series(one, "mmlu/acc")] == [[0, 3, 6], [75, 0, 50]]


def test_a_score_has_a_column_which_is_not_part_of_the_average(sweep):
    scores, _ = made(sweep)
    before, none, pcr = scores.rows
    assert scores.columns[-2:] == ("mmlu/acc", "wikitext/word_perplexity")
    assert before["mmlu/acc"].value == 75
    assert (none["mmlu/acc"].text(), pcr["mmlu/acc"].value) == ("50.0 ± 0.0", 87.5)
    assert pcr["average"].value == pytest.approx((45 + 40) / 2)
    assert pcr["wikitext/word_perplexity"].text() == f"10.750 ± {stats.t.ppf(0.975, 1) * 0.5:.3f}"


def test_accuracies_are_compared_in_pairs(sweep):
    _, details = made(sweep)
    (row,) = [row for row in details.rows if row["benchmark"] == "mmlu/acc" and row["resolver"] == "pcr"]
    assert (row["pairs"], row["difference"].value, row["P(better)"]) == (2, 37.5, 1.0)
    assert row["bootstrap"] == "+0.0 to +75.0"
    assert not [row for row in details.rows if "perplexity" in str(row["benchmark"])]


def test_a_table_may_name_them_and_says_what_no_run_was_evaluated_on(sweep):
    scores, _ = made(sweep, benchmarks=("mmlu/acc", "math", "mmul/acc"))
    assert scores.columns == ("resolver", "n", "math", "average", "perplexity", "mmlu/acc")
    assert scores.notes[-1] == "No complete run was evaluated on: mmul/acc."


@pytest.mark.parametrize("kind", ["curves", "sensitivity", "pareto", "forgetting"])
def test_figures_show_them(sweep, kind):
    drawing = draw(Figure(kind, x="learner.beta" if kind == "sensitivity" else None, y=("mmlu/acc",)), load(sweep))
    assert "acc on mmlu, lm-eval (%)" in texts(drawing)
    assert "no run" not in texts(drawing)


def test_a_value_that_was_not_finite_is_none(tmp_path):
    cell(tmp_path, "none", 0, [0.1], [0.2], evaluations=[evaluation(0, [1]), evaluation(6, [1], None)])
    scores, _ = made(tmp_path, against=None)
    assert scores.rows[-1]["wikitext/word_perplexity"] is None


def test_a_figure_may_be_of_some_scales_only(sweep):
    figures = [{"kind": "curves", "scales": ["paper"]}, {"kind": "grad_norm", "scales": ["embedded"]}]
    declare(sweep, "e", [path for path in sweep.iterdir() if path.is_dir()], scale="embedded", figures=figures)
    (found,), _ = build.collect([sweep])
    assert [figure.kind for figure in found.figures] == ["grad_norm"]
