"""Hydra's other launchers: the cells of a sweep go into one directory, with its summary."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["command_line"]

LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_ends_in_one_summary_and_goes_on(shell: Callable, work: Path, name: str) -> None:
    if importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher") is None:
        pytest.skip("needs pcr-run[launchers]")
    arguments = ("-m", *LAUNCHERS[name], "resolver=pcr,none", "seed=0,1")
    process = shell(*arguments, pcr="failed")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "3 updates in a row were not finite" in out
    assert "Traceback" not in out + err
    process = shell(*arguments)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    (table,) = work.glob("outputs/*/summary.csv")
    assert table.parent.name.startswith("sweep-resolver-seed-")
    rows = list(csv.DictReader(table.open()))
    assert [(row["resolver"], row["seeds"], row["status"]) for row in rows] == [
        ("none", "0 1", "complete"),
        ("pcr", "0 1", "complete"),
    ]
    assert table.with_suffix(".md").read_text() in out
    assert len(list(table.parent.glob("*/result.json"))) == 4
    assert len(list(work.glob("outputs/*/"))) == 1
