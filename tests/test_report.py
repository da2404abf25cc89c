"""Summaries: what the numbers are, and that they come from the cells on disk."""

from __future__ import annotations

import csv
import json
import math
from statistics import stdev

import pytest
from fake_sweep import cell

from pcr_run.errors import ConfigError
from pcr_run.report import build, cli, summary
from pcr_run.report.cells import load, varied


def rows(sweep) -> list[dict[str, str]]:
    summary.write(sweep)
    return list(csv.DictReader((sweep / "summary.csv").open()))


def test_over_seeds_the_interval_is_over_the_differences_of_the_seeds(tmp_path):
    differences = []
    for seed, gain in enumerate((0.1, 0.3, 0.2)):
        cell(tmp_path, "pcr", seed, [0.2, 0.4], [0.2 + gain, 0.4 + gain])
        differences.append(gain)
    (row,) = rows(tmp_path)
    assert row["seeds"] == "0 1 2"
    assert row["interval_over"] == "3 seeds"
    assert float(row["difference"]) == pytest.approx(0.2)
    assert float(row["difference_ci95"]) == pytest.approx(4.302652729911275 * stdev(differences) / math.sqrt(3))


def test_with_one_seed_the_interval_is_over_questions_and_says_so(tmp_path):
    before, after = [0.0, 0.5, 0.25, 1.0], [0.5, 0.5, 1.0, 0.75]
    cell(tmp_path, "pcr", 0, before, after)
    (row,) = rows(tmp_path)
    changes = [b - a for a, b in zip(before, after, strict=True)]
    assert row["interval_over"] == "4 questions, one seed"
    assert float(row["difference_ci95"]) == pytest.approx(3.182446305284264 * stdev(changes) / 2)
    assert "4 questions, one seed" in (tmp_path / "summary.md").read_text()


def test_differences_to_none_are_paired_by_seed(tmp_path):
    for seed, (none, pcr) in enumerate([(0.2, 0.3), (0.6, 0.7), (0.4, 0.5)]):
        cell(tmp_path, "none", seed, [0.1], [none])
        cell(tmp_path, "pcr", seed, [0.1], [pcr])
    found = {row["resolver"]: row for row in rows(tmp_path)}
    assert found["none"]["to_none"] == ""
    assert float(found["pcr"]["to_none"]) == pytest.approx(0.1)
    assert float(found["pcr"]["to_none_ci95"]) == pytest.approx(0, abs=1e-12)  # unpaired it would be wide
    assert float(found["pcr"]["difference_ci95"]) > 0.4


def test_only_seeds_that_both_have_are_compared(tmp_path):
    for seed in (0, 1, 2):
        cell(tmp_path, "pcr", seed, [0.1, 0.1], [0.5, 0.3])
    cell(tmp_path, "none", 1, [0.1, 0.1], [0.3, 0.3])
    found = {row["resolver"]: row for row in rows(tmp_path)}
    assert float(found["pcr"]["to_none"]) == pytest.approx(0.1)
    assert found["pcr"]["to_none_over"] == "2 questions, one seed"


def test_a_key_that_varies_gets_a_column_and_none_is_that_of_the_same_key(tmp_path):
    for beta, none in ((0.0, 0.2), (0.1, 0.4)):
        cell(tmp_path, "none", 0, [0.1], [none], beta=beta)
        cell(tmp_path, "pcr", 0, [0.1], [0.5], beta=beta)
    found = {(row["resolver"], row["learner.beta"]): row for row in rows(tmp_path)}
    assert float(found["pcr", "0"]["to_none"]) == pytest.approx(0.3)
    assert float(found["pcr", "0.1"]["to_none"]) == pytest.approx(0.1)


def test_options_of_a_resolver_do_not_keep_it_from_none(tmp_path):
    cell(tmp_path, "none", 0, [0.1], [0.2], alpha=0.5)
    cell(tmp_path, "fixed", 0, [0.1], [0.3], alpha=0.2)
    cell(tmp_path, "fixed", 0, [0.1], [0.6], alpha=0.8)
    found = {row["resolver.alpha"]: row for row in rows(tmp_path) if row["resolver"] == "fixed"}
    assert float(found["0.2"]["to_none"]) == pytest.approx(0.1)
    assert float(found["0.8"]["to_none"]) == pytest.approx(0.4)


def test_keys_that_follow_from_others_or_do_not_matter_get_no_column(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2], task="math")
    cell(tmp_path, "none", 1, [0.1], [0.2], task="code")
    assert varied(load(tmp_path)) == ["task.name", "resolver.name"]


def test_retention_conflicts_and_time_are_means(tmp_path):
    steps = (
        {"step": 1, "conflict_rate": 1.0, "alpha": 0.2, "cos_pla_sta": -0.5, "cos_update_sta": 0.1},
        {"step": 2, "conflict_rate": 0.0, "alpha": None, "cos_pla_sta": 0.5, "cos_update_sta": -0.1},
        {"step": 3, "conflict_rate": 0.5, "cos_update_sta": 0.0},
    )
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=steps)
    cell(tmp_path, "pcr", 2, [0.1], [0.2])
    (row,) = rows(tmp_path)
    numbers = {name: float(row[name]) for name in ("conflict_rate", "alpha", "cos_pla_sta", "cos_update_sta")}
    assert numbers == pytest.approx({"conflict_rate": 0.5, "alpha": 0.2, "cos_pla_sta": 0.0, "cos_update_sta": 0.0})
    assert float(row["share_cos_update_sta>=0"]) == pytest.approx(2 / 3)
    assert float(row["other_change"]) == pytest.approx(-0.1)
    assert (float(row["perplexity_before"]), float(row["perplexity_after"])) == (2.0, 4.0)
    assert float(row["seconds"]) == 16.0


def test_an_infinite_perplexity_is_said(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    path = next(tmp_path.glob("*/result.json"))
    found = json.loads(path.read_text())
    found["perplexity"]["after"] = None  # JSON has no infinity
    path.write_text(json.dumps(found))
    (row,) = rows(tmp_path)
    assert (row["perplexity_before"], row["perplexity_after"]) == ("2.0", "inf")


def test_questions_that_cannot_be_judged_are_in_the_report(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    path = next(tmp_path.glob("*/result.json"))
    found = json.loads(path.read_text())
    assert "cannot be judged" not in summary.write(tmp_path)
    found["scores"]["math"]["after"]["ungradable"] = {"minerva/5": "states no value", "minerva/72": "states no value"}
    path.write_text(json.dumps(found))
    assert "- math: minerva/5, minerva/72 (2)" in summary.write(tmp_path)


def test_cells_that_are_not_complete_are_rows_that_say_why(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    cell(tmp_path, "pcr", 1, [0.1], [0.9], status="failed")
    cell(tmp_path, "none", 0, [0.1], [0.9], status="interrupted")
    (tmp_path / "math-pcgrad").mkdir()
    (tmp_path / "math-pcgrad" / "config.yaml").write_text(
        (tmp_path / "math-none-0-" / "config.yaml").read_text().replace("name: none", "name: pcgrad")
    )
    found = rows(tmp_path)
    assert [(row["resolver"], row["seeds"], row["status"]) for row in found] == [
        ("pcr", "0", "complete"),
        ("none", "0", "interrupted"),
        ("pcgrad", "0", "not started"),
        ("pcr", "1", "failed"),
    ]
    assert found[0]["after"] == "0.2"
    assert found[0]["to_none"] == ""
    assert found[3]["reason"] == "it was | not to be\nreally"
    table = (tmp_path / "summary.md").read_text()
    assert "failed: it was \\| not to be really" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines[:6]}) == 1  # aligned


def test_runs_without_evaluation_still_have_rows(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    path = tmp_path / "math-pcr-0-" / "result.json"
    path.write_text(json.dumps({"status": "complete", "reason": None, "scores": {}, "seconds": {}}))
    (row,) = rows(tmp_path)
    assert (row["status"], row["seconds"]) == ("complete", "0.0")


def test_pcr_report_rebuilds_what_the_cells_say(tmp_path, monkeypatch, capsys):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    monkeypatch.setattr(build, "write", lambda directories, out, read: directories[0] / "report.html")
    monkeypatch.setattr("sys.argv", ["pcr-report", str(tmp_path)])
    assert cli.main() == 0
    first = capsys.readouterr().out
    assert first == (tmp_path / "summary.md").read_text() + f"report: {tmp_path}/report.html\n"
    (tmp_path / "summary.md").unlink()
    assert cli.main() == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("place", ["missing", "empty", "damaged"])
def test_pcr_report_names_a_directory_without_runs(tmp_path, monkeypatch, capsys, place):
    directory = tmp_path / place
    if place != "missing":
        directory.mkdir()
    if place == "damaged":
        (directory / "cell").mkdir()
        (directory / "cell" / "config.yaml").write_text("a: [1")
    monkeypatch.setattr("sys.argv", ["pcr-report", str(directory)])
    assert cli.main() == 2
    err = capsys.readouterr().err
    assert err.startswith("pcr-report: error: ")
    assert str(directory) in err


def test_a_run_is_a_sweep_of_one(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    with pytest.raises(ConfigError):
        load(tmp_path / "math-pcr-0-" / "nothing")
    assert len(load(tmp_path / "math-pcr-0-")) == 1
