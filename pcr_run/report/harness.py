"""What lm-eval measured of a run, as measures ``TASK/METRIC`` like ``mmlu/acc``; shares are in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pcr_run.report.cells import Cell

SHARES = ("acc", "acc_norm", "exact_match")
"""Metrics that are shares of questions."""


def names(cells: Sequence[Cell]) -> list[str]:
    """The measures that any of the cells has."""
    return list(dict.fromkeys(name for cell in cells for line in cell.evaluations for name in scores(line)))


def final(cell: Cell, name: str, when: str) -> float:
    """A measure ``before`` the first step or ``after`` the last; nan where there is none."""
    return scores(_line(cell, when)).get(name, math.nan)


def per_question(cell: Cell, name: str) -> list[float] | None:
    """The accuracy of each question after training; None for measures that have none."""
    task, _, metric = name.rpartition("/")
    found = (_line(cell, "after").get("harness") or {}).get(task, {})
    return found.get("per_question") if metric == "acc" else None


def label(name: str) -> str:
    """The axis of a measure, with its unit."""
    task, _, metric = name.rpartition("/")
    return f"{metric} on {task}, lm-eval{' (%)' if is_share(metric) else ''}"


def is_share(metric: str) -> bool:
    """Whether a metric (``acc``; ``exact_match,strict-match``) is a share."""
    return metric.partition(",")[0] in SHARES


def scores(line: dict[str, Any]) -> dict[str, float]:
    """The measures of a line of ``evaluations.jsonl``; nan for what was not finite."""
    return {
        f"{task}/{metric}": math.nan if score["value"] is None else score["value"] * (100 if is_share(metric) else 1)
        for task, found in (line.get("harness") or {}).items()
        for metric, score in found["metrics"].items()
    }


def _line(cell: Cell, when: str) -> dict[str, Any]:
    step = 0 if when == "before" else cell.config.get("steps")
    return next((line for line in cell.evaluations if line.get("step") == step), {})
