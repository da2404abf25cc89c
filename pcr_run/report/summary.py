"""``summary.csv`` and ``summary.md`` of a sweep, from the cells on disk: task x resolver, intervals over seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pcr_run.report.arms import heading, partner, shown
from pcr_run.report.cells import Cell, load, varied
from pcr_run.report.grid import aligned
from pcr_run.report.statistics import mean_interval

Row = dict[str, Any]

MEANS = ("conflict_rate", "alpha", "cos_pla_sta", "cos_update_sta")
SHARE = "share_cos_update_sta>=0"
SCORES = (
    *("seeds", "status", "before", "after", "difference", "difference_ci95", "interval_over"),
    *("to_none", "to_none_ci95", "to_none_over"),
)
NUMBERS = ("perplexity_before", "perplexity_after", *MEANS, SHARE)

NOTES = """\
Pass@1 in %; ± is the half-width of a 95% t-interval. `over` says over what: the differences of the seeds, or, where
there is one seed, of the questions of that run (each question's share of right samples). `to none` is Pass@1 after
training minus that of `resolver=none`, paired by seed, or by question."""


def show(directory: Path, cells: Sequence[Cell] | None = None) -> None:
    """Write both files and print the second."""
    print(write(directory, cells), end="")


def write(directory: Path, cells: Sequence[Cell] | None = None) -> str:
    """Write ``summary.csv`` and ``summary.md`` into the directory; returns the text of the second.

    ``cells``: the directory's, where they have been read.
    """
    cells = load(directory) if cells is None else cells
    keys = varied(cells)
    rows = table(cells, keys)
    others = sorted({name for row in rows for name in row if name.endswith("_change")})
    names = [*map(heading, keys), *SCORES, *others, *NUMBERS, "seconds", "reason"]
    with (directory / "summary.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    found = _text(directory, cells, keys, rows)
    (directory / "summary.md").write_text(found, encoding="utf-8", errors="replace")
    return found


def text(directory: Path, cells: Sequence[Cell]) -> str:
    """What stands in ``summary.md``."""
    keys = varied(cells)
    return _text(directory, cells, keys, table(cells, keys))


def _text(directory: Path, cells: Sequence[Cell], keys: Sequence[str], rows: Sequence[Row]) -> str:
    return markdown(directory.name, rows, [heading(key) for key in keys]) + unjudged(cells)


def unjudged(cells: Sequence[Cell]) -> str:
    """A paragraph on the questions that nothing could judge, empty where there are none."""
    found = {
        task: score["after"]["ungradable"]
        for cell in cells
        for task, score in cell.scores.items()
        if score["after"].get("ungradable")
    }
    lines = [f"- {task}: {', '.join(names)} ({len(names)})" for task, names in found.items()]
    return "\n".join(["", "## Questions that cannot be judged", "", *lines, ""]) if lines else ""


def table(cells: Sequence[Cell], keys: Sequence[str]) -> list[Row]:
    """A row for each combination of ``keys`` with its complete seeds, then one for each cell that is not complete."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(shown(cell.value(key)) for key in keys), []).append(cell)
    rows = []
    for values, group in groups.items():
        who = dict(zip(map(heading, keys), values, strict=True))
        complete = sorted((cell for cell in group if cell.complete), key=lambda cell: cell.seed)
        if complete:
            seeds = " ".join(str(cell.seed) for cell in complete)
            other = partner(values, keys, {"resolver.name": "none"}, list(groups))
            plain = [cell for cell in groups[other] if cell.complete] if other is not None else []
            rows.append({**who, "seeds": seeds, "status": "complete", **_measured(complete, plain)})
        for cell in group:
            if not cell.complete:
                reason = cell.result.get("reason") or "no result; see run.log"
                rows.append({**who, "seeds": str(cell.seed), "status": cell.status, "reason": reason})
    return sorted(rows, key=lambda row: row["status"] != "complete")


def markdown(title: str, rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The rows as two aligned tables: scores, and what was retained and measured."""
    scores, measured = [], []
    for row in rows:
        who = {key: row[key] for key in (*keys, "seeds")}
        scores.append(
            {
                **who,
                "before": _percent(row.get("before")),
                "after": _percent(row.get("after")),
                "difference": _percent(row.get("difference"), row.get("difference_ci95"), sign="+"),
                "to none": _percent(row.get("to_none"), row.get("to_none_ci95"), sign="+"),
                "over": row.get("interval_over")
                if row["status"] == "complete"
                else f"{row['status']}: {row['reason']}"[:80],
            }
        )
        if row["status"] == "complete":
            others = {name: _percent(value, sign="+") for name, value in row.items() if name.endswith("_change")}
            numbers = {name: _number(row.get(name)) for name in NUMBERS}
            measured.append({**who, **others, **numbers, "seconds": f"{row['seconds']:.0f}"})
    parts = [f"# {title}", _aligned(scores), NOTES]
    if measured:
        parts += ["## Retention and gradients", _aligned(measured)]
        parts.append("`<task>_change`: Pass@1 of a task that was not trained; the rest are means over steps and seeds.")
    return "\n\n".join(parts) + "\n"


def _measured(cells: Sequence[Cell], plain: Sequence[Cell]) -> Row:
    """The numbers of cells that differ in nothing but their seed; ``plain`` are those of ``resolver=none``."""
    task = cells[0].config["task.name"]
    row: Row = {}
    if all(task in cell.scores for cell in cells):
        row["before"] = fmean(cell.scores[task]["before"]["pass@1"] for cell in cells)
        row["after"] = fmean(cell.scores[task]["after"]["pass@1"] for cell in cells)
        changes = [(_score(cell, task, "before"), _score(cell, task, "after")) for cell in cells]
        row["difference"], row["difference_ci95"], row["interval_over"] = _paired(changes)
        by_seed = {cell.seed: cell for cell in plain if task in cell.scores}
        pairs = [(by_seed[cell.seed], cell) for cell in cells if cell.seed in by_seed]
        if pairs:
            after = [(_score(other, task, "after"), _score(cell, task, "after")) for other, cell in pairs]
            row["to_none"], row["to_none_ci95"], row["to_none_over"] = _paired(after)
        for other in cells[0].scores:
            if other != task and all(other in cell.scores for cell in cells):
                changes = [(_score(cell, other, "before"), _score(cell, other, "after")) for cell in cells]
                row[f"{other}_change"] = fmean(after["pass@1"] - before["pass@1"] for before, after in changes)
    if all(cell.result.get("perplexity") for cell in cells):
        for when in ("before", "after"):
            values = [cell.result["perplexity"].get(when) for cell in cells]
            row[f"perplexity_{when}"] = math.inf if None in values else fmean(values)  # JSON has no infinity
    steps = [line for cell in cells for line in cell.metrics]
    for name in MEANS:
        if values := [line[name] for line in steps if line.get(name) is not None]:
            row[name] = fmean(values)
            if name == "cos_update_sta":
                row[SHARE] = fmean(value >= 0 for value in values)
    row["seconds"] = fmean(sum((cell.result.get("seconds") or {}).values()) for cell in cells)
    return row


def _paired(pairs: Sequence[tuple[Row, Row]]) -> tuple[float, float | None, str]:
    """Mean of second minus first, its half-width, and over what: seeds, or the questions of the only one."""
    if len(pairs) > 1:
        return *mean_interval([second["pass@1"] - first["pass@1"] for first, second in pairs]), f"{len(pairs)} seeds"
    first, second = (score.get("per_question") or [] for score in pairs[0])
    if len(first) != len(second) or not first:
        return pairs[0][1]["pass@1"] - pairs[0][0]["pass@1"], None, "one seed"
    return *mean_interval([b - a for a, b in zip(first, second, strict=True)]), f"{len(first)} questions, one seed"


def _score(cell: Cell, task: str, when: str) -> Row:
    return cell.scores[task][when]


def _percent(value: float | None, half: float | None = None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _aligned(rows: Sequence[Row]) -> str:
    """A markdown table that also reads well as plain text; columns without any value are left out."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)]
    lines = [names, *([str(row.get(name) or "").replace("|", "\\|") for name in names] for row in rows)]
    return aligned([[cell.replace("\n", " ") for cell in line] for line in lines])
