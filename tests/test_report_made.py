"""A report at the end of every run and sweep, which can fail without harm, and its speed."""

from __future__ import annotations

import json

import pytest
from fake_sweep import cell, measured, training, written

from pcr_run.report import build, cells

pytest_plugins = ["command_line"]
softly = build.softly


@pytest.fixture
def reporting(command, monkeypatch):
    """The command line with real reports."""
    monkeypatch.setattr(build, "softly", softly)
    return command


def test_a_run_ends_with_its_report_and_its_learning_curves(reporting, work):
    ended = reporting("hydra.run.dir=here")
    assert (ended.code, ended.err) == (0, "")
    assert (work / "here" / "report" / "report.html").is_file()
    assert (work / "here" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_can_do_without(reporting, work):
    assert reporting("hydra.run.dir=here", "tracker.report=false").code == 0
    assert not (work / "here" / "report").exists()


def test_a_sweep_ends_with_one_report_of_all_its_runs(reporting, work, monkeypatch):
    reads, read = [], cells.read
    monkeypatch.setattr(cells, "read", lambda directory: reads.append(directory) or read(directory))
    assert reporting("-m", "resolver=pcr,none", "hydra.sweep.dir=here", none="failed").code == 1
    (page,) = work.glob("**/report.html")
    assert page == work / "here" / "report" / "report.html"
    text = page.read_text()
    assert "1 of 2 runs complete" in text
    assert "3 updates in a row were not finite" in text
    assert not list(work.glob("here/*/curves.png"))
    assert len(reads) == 2  # once for the summary and the report


@pytest.mark.parametrize(("fake", "code"), [("complete", 0), ("failed", 1), ("bad data", 2)])
def test_a_report_that_fails_does_not_change_how_a_sweep_ends(reporting, work, monkeypatch, fake, code):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(build, "write", fail)
    ended = reporting("-m", "resolver=pcr", "seed=0,1", "hydra.sweep.dir=here", pcr=fake)
    assert ended.code == code
    lines = [line for line in ended.err.splitlines() if "no report" in line]
    assert lines == [
        f"pcr-run: WARNING: no report: ZeroDivisionError: by nothing; `pcr-report {work / 'here'}` makes it again"
    ]


def test_a_report_that_fails_does_not_change_how_a_run_ends(reporting, work, monkeypatch):
    monkeypatch.setattr(build, "write", lambda *_, **__: 1 / 0)
    ended = reporting("hydra.run.dir=here")
    assert ended.code == 0
    assert "no report: ZeroDivisionError" in ended.err
    assert "Traceback" in (work / "here" / "run.log").read_text()
    assert json.loads((work / "here" / "result.json").read_text())["status"] == "complete"


@pytest.mark.slow
def test_150_runs_of_120_steps_make_one_page(tmp_path):
    for rule in ("none", "pcgrad", "fixed", "pcr", "pcr_literal"):
        for beta in (0.0, 0.01, 0.04, 0.16, 0.64, 1.0):
            for seed in range(5):
                rollouts = [written(step, "word " * 200) for step in range(1, 121) for _ in range(2)]
                records = {"metrics": training(120), "layers": measured(120), "rollouts": rollouts}
                cell(tmp_path, rule, seed, [0.1, 0.2], [0.2, 0.4], beta=beta, **records)
    page = build.write([tmp_path])
    assert "150 of 150 runs complete" in page.read_text()
