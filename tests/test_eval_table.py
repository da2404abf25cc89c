"""The table at the end of ``pcr-eval``, from files alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from pcr_run.eval import table


def measured(directory: Path, model: str, per_question: list[float], status: str = "complete") -> Path:
    directory.mkdir()
    score = {"pass@1": sum(per_question) / 2, "stderr": 0.1, "questions": 2, "n": 1, "truncated": 0.0}
    line = {"step": 0, "tasks": {"math": {**score, "per_question": per_question, "items": "a"}}}
    (directory / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    (directory / "result.json").write_text(json.dumps({"model": model, "status": status, "reason": "no weights"}))
    return directory


def test_what_was_measured_before_of_a_model_that_fails_now_is_not_shown(tmp_path, capsys):
    """Its weights may have changed since."""
    one = measured(tmp_path / "one", "base", [1.0, 0.0])
    two = measured(tmp_path / "two", "a | b", [1.0, 1.0])
    bad = measured(tmp_path / "bad", "gone", [1.0, 1.0], status="failed")
    table.show([one, bad, two], tmp_path)
    rows = list(csv.DictReader((tmp_path / "evaluations.csv").open()))
    assert [(row["model"], row["difference"]) for row in rows] == [("base", ""), ("a | b", "0.5")]
    assert "gone: failed (no weights)" in capsys.readouterr().out


def test_where_the_first_model_fails_nothing_is_compared(tmp_path, capsys):
    bad = measured(tmp_path / "bad", "gone", [1.0, 1.0], status="interrupted")
    table.show([bad, measured(tmp_path / "one", "base", [1.0, 0.0])], tmp_path)
    (row,) = csv.DictReader((tmp_path / "evaluations.csv").open())
    assert (row["model"], row["difference"]) == ("base", "")
    assert "gone: interrupted" in capsys.readouterr().out
