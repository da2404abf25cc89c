"""Tables: their numbers against independent formulas, and every way in which they are written."""

from __future__ import annotations

import csv
import io
from statistics import fmean, stdev

import numpy as np
import pytest
from fake_sweep import cell
from scipy import stats

from pcr_run.errors import ConfigError
from pcr_run.report import printed
from pcr_run.report.cells import load
from pcr_run.report.experiment import Experiment, Table
from pcr_run.report.grid import Estimate, Grid, latex, markdown, to_csv
from pcr_run.report.tables import tables

NONE = {0: [0.2, 0.4, 0.1], 1: [0.5, 0.3, 0.2], 2: [0.4, 0.4, 0.4]}
PCR = {0: [0.3, 0.5, 0.4], 1: [0.5, 0.5, 0.3], 2: [0.6, 0.4, 0.3]}


def made(sweep, **table):
    wanted = Table(**{"rows": ("resolver.name",), "against": {"resolver.name": "none"}, **table})
    return tables(Experiment("e", tuple(load(sweep))), wanted, "e: tables[0]")


@pytest.fixture
def sweep(tmp_path):
    for seed in NONE:
        cell(tmp_path, "none", seed, [0.1, 0.1, 0.1], NONE[seed], truncated=0.25)
        cell(tmp_path, "pcr", seed, [0.1, 0.1, 0.1], PCR[seed])
    return tmp_path


def test_scores_are_means_with_students_interval_over_seeds(sweep):
    scores, _ = made(sweep)
    base, none, pcr = scores.rows
    assert (base["resolver"], base["math"].value) == ("before training", pytest.approx(10))
    means = [100 * fmean(values) for values in PCR.values()]
    half = stats.t.ppf(0.975, 2) * stdev(means) / np.sqrt(3)
    assert (pcr["n"], pcr["math"].value, pcr["math"].half) == (3, pytest.approx(fmean(means)), pytest.approx(half))
    assert pcr["average"].value == pytest.approx((fmean(means) + 40) / 2)
    assert none["math"].cut == 25
    assert "(25% cut)" in none["math"].text()
    assert pcr["perplexity"].value == pytest.approx(4.0)


def test_details_are_paired_by_seed(sweep):
    _, details = made(sweep)
    (row,) = [row for row in details.rows if (row["resolver"], row["benchmark"]) == ("pcr", "math")]
    differences = [100 * (fmean(PCR[seed]) - fmean(NONE[seed])) for seed in NONE]
    half = stats.t.ppf(0.975, 2) * stdev(differences) / np.sqrt(3)
    assert (row["difference"].value, row["difference"].half) == pytest.approx((fmean(differences), half))
    assert (row["against"], row["pairs"]) == ("none", 3)
    wins = [(a > b) + (a == b) / 2 for a in map(fmean, PCR.values()) for b in map(fmean, NONE.values())]
    assert row["P(better)"] == pytest.approx(fmean(wins))
    assert row["IQM"].value == pytest.approx(stats.trim_mean([100 * fmean(x) for x in PCR.values()], 0.25))
    changes = [100 * fmean(values) - 10 for values in PCR.values()]
    half = stats.t.ppf(0.975, 2) * stdev(changes) / np.sqrt(3)
    assert (row["change"].value, row["change"].half) == pytest.approx((fmean(changes), half))
    low, high = map(float, row["bootstrap"].split(" to "))
    assert low <= fmean(differences) <= high
    assert row["smallest effect"].value > 0
    (none,) = [row for row in details.rows if (row["resolver"], row["benchmark"]) == ("none", "math")]
    assert "difference" not in none


def test_only_seeds_of_both_arms_make_pairs(sweep):
    cell(sweep, "pcr", 7, [0.1], [0.9])
    _, details = made(sweep)
    (row,) = [row for row in details.rows if (row["resolver"], row["benchmark"]) == ("pcr", "math")]
    assert (row["n"], row["pairs"]) == (4, 3)


def test_a_run_that_is_not_complete_counts_nowhere(sweep):
    cell(sweep, "pcr", 7, [0.1], [0.9], status="failed")
    scores, details = made(sweep)
    assert scores.rows[2]["n"] == 3
    assert all(row["n"] == 3 for row in details.rows)


def test_the_last_evaluation_counts_not_the_best(tmp_path):
    best = [{"step": 3, "tasks": {"math": {"pass@1": 0.99}}}, {"step": 6, "tasks": {"math": {"pass@1": 0.2}}}]
    cell(tmp_path, "pcr", 0, [0.1], [0.2], evaluations=best)
    assert made(tmp_path)[0].rows[1]["math"].value == pytest.approx(20)


def test_options_that_a_rule_does_not_read_make_no_arms(tmp_path):
    cell(tmp_path, "none", 0, [0.1], [0.2], alpha=0.5)
    cell(tmp_path, "fixed", 0, [0.1], [0.3], alpha=0.2)
    cell(tmp_path, "fixed", 0, [0.1], [0.4], alpha=0.8)
    scores, details = made(tmp_path, rows=("resolver.name", "resolver.alpha"))
    assert [(row["resolver"], row["resolver.alpha"]) for row in scores.rows[1:]] == [
        ("fixed", "0.2"),
        ("fixed", "0.8"),
        ("none", ""),
    ]
    found = {row["resolver.alpha"]: row["difference"].value for row in details.rows if row.get("against")}
    assert found["0.8"] == pytest.approx((40 - 20) / 2)  # the average with a task that stays as it is


def test_the_other_arm_has_the_same_of_all_else(tmp_path):
    for beta, none in ((0.0, 0.2), (0.1, 0.4)):
        cell(tmp_path, "none", 0, [0.1], [none], beta=beta)
        cell(tmp_path, "pcr", 0, [0.1], [0.5], beta=beta)
    _, details = made(tmp_path, rows=("resolver.name", "learner.beta"), benchmarks=("math",))
    found = {row["learner.beta"]: row["difference"].value for row in details.rows if "difference" in row}
    assert found == pytest.approx({"0": 30, "0.1": 10})


def test_rows_that_do_not_tell_runs_apart_are_an_error(tmp_path):
    for beta in (0.0, 0.1):
        cell(tmp_path, "pcr", 0, [0.1], [0.5], beta=beta)
    with pytest.raises(ConfigError, match=r"e: tables\[0\].rows: .* add one of .*learner.beta"):
        made(tmp_path)
    assert len(made(tmp_path, where={"learner.beta": 0.1})[0].rows) == 2


def test_printed_averages_are_the_means_of_their_rows_but_for_three():
    off = {}
    for base in printed.table("table1")["bases"]:
        for method, (*scores, average) in base["rows"].items():
            assert len(scores) == 5
            if abs(fmean(scores) - average) > 0.05 + 1e-9:
                off[base["name"], method] = round(fmean(scores), 2)
    assert off == {
        ("DeepScaleR-1.5B-Preview", "GCPO"): 56.66,
        ("DeepScaleR-1.5B-Preview", "PCR"): 57.64,
        ("DeepSeek-R1-Distill-Qwen-1.5B", "GVPO"): 46.78,
    }
    notes = " ".join(printed.table("table1")["notes"])
    assert all(str(mean) in notes for mean in off.values())
    amc = {name: row[2] for name, row in printed.table("table1")["bases"][1]["rows"].items()}
    assert amc["MRT"] > amc["PCR"]


def test_printed_rows_stand_below_ours_and_what_is_not_run_is_marked(tmp_path):
    benchmarks = {name: ([0.3], [0.5]) for name in ("aime24", "aime25", "amc23", "math500", "minerva")}
    for rule in ("none", "pcr"):
        cell(tmp_path, rule, 0, [0.1], [0.2], path="agentica-org/DeepScaleR-1.5B-Preview", scores=benchmarks)
    table, _ = made(tmp_path, rows=("model.path", "resolver.name"), benchmarks=tuple(benchmarks), printed="table1")
    ours = [(row["resolver"], row["source"], row["aime24"].text()) for row in table.rows[:9]]
    assert ours == [
        ("before training", "ours", "30.0"),
        ("base", "printed: base", "42.8"),
        ("none", "ours", "50.0"),
        ("GRPO", "printed: GRPO", "44.5"),
        ("pcr", "ours", "50.0"),
        ("PCR", "printed: PCR", "48.1"),
        ("GVPO", "printed only: GVPO", "46.1"),
        ("MRT", "printed only: MRT", "47.2"),
        ("GCPO", "printed only: GCPO", "46.7"),
    ]
    assert {row["source"].split(":")[0] for row in table.rows[9:]} == {"printed only"}
    assert len(table.rows) == 9 + 12
    assert any("no seeds" in note for note in table.notes)


def test_where_no_base_is_shared_the_printed_table_stands_alone(sweep):
    ours, alone, _ = made(sweep, printed="table1")
    assert "source" not in ours.columns
    assert len(alone.rows) == 18
    assert alone.rows[5]["average"].value == 57.7


HOSTILE = "a|b_c%d\n=e & <i>f</i> $g$ {h} \\i #j ~k ^l \u2028 `m` *n*"
GRID = Grid(
    HOSTILE,
    ("who", "score"),
    ({"who": HOSTILE, "score": Estimate(-1.25, 0.5, 3.0)}, {"who": "=1+1", "score": Estimate(2.0)}),
    (HOSTILE,),
)


def test_markdown_keeps_hostile_text_in_its_cell():
    lines = markdown(GRID).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace("\\|", "").count("|") for line in table} == {3}
    assert len({len(line) for line in table}) == 1
    assert "<i>" not in markdown(GRID)
    assert "\\`m\\` \\*n\\*" in table[2]
    assert "pcr_literal" in markdown(Grid("t", ("a",), ({"a": "pcr_literal"},)))


def test_csv_has_numbers_in_columns_of_their_own_and_no_formula():
    found = list(csv.DictReader(io.StringIO(to_csv(GRID))))
    assert found[0] == {"who": HOSTILE, "score": "-1.25", "score ci95": "0.5", "score cut %": "3.0"}
    assert found[1]["who"] == "'=1+1"
    assert found[1]["score ci95"] == ""
    for text in ("+1", "-1", "@x", "\t=1", " =1", "\r=1"):
        (row,) = csv.reader(io.StringIO(to_csv(Grid("t", ("a",), ({"a": text},))).split("\n", 1)[1], newline=""))
        assert row[0].startswith("'")


def test_latex_escapes_what_is_special_and_is_booktabs():
    text = latex(GRID)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lr}"):
        assert rule in text
    assert r"a\textbar{}b\_c\%d =e \& \textless{}i\textgreater{}f" in text
    assert r"\$g\$ \{h\} \textbackslash{}i \#j \textasciitilde{}k \textasciicircum{}l" in text
    assert r"$-$1.2 $\pm$ 0.5 (3\% cut)" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    assert [line.replace(r"\&", "").count("&") for line in body.splitlines()] == [1, 1]
    assert "\u2028" not in text


def test_latex_needs_no_other_encoding_of_fonts():
    text = latex(Grid("t", ("a",), ({"a": 'a "b" | c'},)))
    assert r"a ''b'' \textbar{} c" in text
    assert "textquotedbl" not in text


def test_an_infinite_perplexity_and_a_score_that_is_missing_are_said(tmp_path):
    directory = cell(tmp_path, "pcr", 0, [0.1], [0.2])
    path = directory / "result.json"
    path.write_text(path.read_text().replace('"after": 3.0', '"after": null').replace('"after": 3', '"after": null'))
    cell(tmp_path, "none", 0, [0.1], [0.2], scores={"third": ([0.5], [0.5])})
    scores, _ = made(tmp_path)
    pcr = next(row for row in scores.rows if row["resolver"] == "pcr")
    assert pcr["perplexity"].text() == "inf"
    assert pcr["third"] is None
