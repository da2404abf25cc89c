"""Measures by name: what the axes of a figure and the columns of a table can show of a cell."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcr_run.report import harness
from pcr_run.report.cells import Cell

Values = NDArray[np.float64]
LABELS = {
    "trained": "Pass@1 on the trained task (%)",
    "others": "Pass@1 on tasks not trained (%)",
    "mean": "Pass@1, mean of all tasks (%)",
    "perplexity": "perplexity",
    "kl": "KL to the reference (nats/token)",
    "minutes": "training time (min)",
    "reward": "mean reward",
    "grad_norm": "gradient norm",
    "cos_update_sta": "cos(update, g_sta)",
    "cos_pla_sta": "cos(g_pla, g_sta)",
    "response_tokens": "response length (tokens)",
    "entropy": "entropy (nats/token)",
    "conflict_rate": "share of groups in conflict",
    "alpha": "alpha (variance ratio)",
    "pass_rate": "share of right responses",
}
COSINE = (-1.0, 1.0)
BOUNDS = {"grad_norm": (0.0, math.inf), "cos_update_sta": COSINE, "cos_pla_sta": COSINE}
"""What a measure cannot be beyond, though the interval of a few runs may."""
OF_EVALUATIONS = ("trained", "others", "mean", "perplexity")


def label(name: str, cells: list[Cell]) -> str:
    """The axis of a measure, with its unit."""
    if name in harness.names(cells):
        return harness.label(name)
    return LABELS.get(name, f"Pass@1 on {name} (%)" if _is_task(name, cells) else name)


def number(value: Any) -> float:
    """A number of a record; nan for what is none (null: not finite, or not measured)."""
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else math.nan


def final(cell: Cell, name: str, when: str = "after") -> float:
    """A measure at the end of a run, or ``before`` it; nan where the run does not have it. Scores are in percent."""
    if name in OF_EVALUATIONS or name in cell.scores:
        scores = {task: score.get(when, {}) for task, score in cell.scores.items()}
        return _of_evaluation(cell, name, scores, (cell.result.get("perplexity") or {}).get(when))
    if name in harness.names([cell]):
        return harness.final(cell, name, when)
    if when == "before":
        return 0.0 if name in ("kl", "minutes") else math.nan
    if name == "minutes":
        values = minutes(cell)
        return float(values[-1]) if len(values) else math.nan
    values = column(cell, name)
    return mean(values[-max(1, len(values) // 10) :])


def series(cell: Cell, name: str) -> tuple[Values, Values]:
    """(steps, values) of a measure: at every step, or at every evaluation where it comes from one."""
    if name in OF_EVALUATIONS or _is_task(name, [cell]):
        lines = [line for line in cell.evaluations if isinstance(line.get("tasks"), dict)]
        found = [_of_evaluation(cell, name, line["tasks"], line.get("perplexity")) for line in lines]
        return _array(lines, "step"), np.array(found, dtype=float)
    if name in harness.names([cell]):
        found = [harness.scores(line).get(name, math.nan) for line in cell.evaluations]
        return _array(cell.evaluations, "step"), np.array(found, dtype=float)
    return _array(cell.metrics, "step"), minutes(cell) if name == "minutes" else column(cell, name)


def column(cell: Cell, name: str) -> Values:
    """A column of ``metrics.jsonl``, nan where a step does not have it."""
    return _array(cell.metrics, name)


def minutes(cell: Cell) -> Values:
    """Minutes of training up to the end of each step, without evaluations."""
    seconds = [sum(number(v) for k, v in line.items() if k.startswith("time/")) for line in cell.metrics]
    return np.cumsum(np.array(seconds, dtype=float)) / 60


def mean(values: Any) -> float:
    """The mean of what is finite; nan where nothing is."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _of_evaluation(cell: Cell, name: str, scores: dict[str, Any], perplexity: Any) -> float:
    if name == "perplexity":
        return number(perplexity)
    own = cell.config.get("task.name")
    groups: dict[str, list[Any]] = {
        "trained": [own],
        "others": [task for task in cell.not_trained if task in scores],
        "mean": list(scores),
    }
    chosen = groups.get(name, [name])
    values = [100 * number(scores.get(task, {}).get("pass@1")) for task in chosen]
    return float(np.mean(values)) if values else math.nan


def _is_task(name: str, cells: list[Cell]) -> bool:
    return any(name in cell.scores or any(name in (e.get("tasks") or {}) for e in cell.evaluations) for cell in cells)


def _array(lines: list[dict[str, Any]], name: str) -> Values:
    return np.array([number(line.get(name)) for line in lines], dtype=float)
