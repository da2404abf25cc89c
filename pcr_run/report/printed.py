"""Numbers that the paper prints, beside those that were measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pcr_run.report.grid import Entry, Estimate, Grid


@dataclass(frozen=True)
class Line:
    """A row of a table with what it is of: the model's path, and the rule's name or ``base``."""

    model: str
    rule: str
    row: dict[str, Entry]


@cache
def table(name: str) -> dict[str, Any]:
    """A table of ``printed.yaml``."""
    return yaml.safe_load((Path(__file__).parent / "printed.yaml").read_text(encoding="utf-8"))[name]


def beside(name: str, title: str, columns: Sequence[str], lines: Sequence[Line], notes: Sequence[str]) -> list[Grid]:
    """Our lines with the printed row of the same base and method below each; what is not run follows, marked so.

    Where no base or no benchmark is shared, the printed table stands by itself.
    """
    printed = table(name)
    shared = [benchmark for benchmark in printed["benchmarks"] if benchmark in columns]
    bases = {_short(base["name"]) for base in printed["bases"]}
    if not shared or not any(_short(line.model) in bases for line in lines):
        ours = [Grid(title, tuple(columns), tuple(line.row for line in lines), tuple(notes))] if lines else []
        return [*ours, _alone(name)]
    rows: list[dict[str, Entry]] = [{**line.row, "source": "ours"} for line in lines if _short(line.model) not in bases]
    methods = {"base": "base", **printed["rules"]}
    for base in printed["bases"]:
        own = [line for line in lines if _short(line.model) == _short(base["name"])]
        left = dict(base["rows"])
        for i, line in enumerate(own):
            rows.append({**line.row, "source": "ours"})
            last = line.rule not in [later.rule for later in own[i + 1 :]]
            for method in [method for method in left if methods.get(method) == line.rule and last]:
                rows.append(_row(base["name"], method, left.pop(method), "printed", printed, columns))
        rows += [
            _row(base["name"], method, numbers, "printed only", printed, columns) for method, numbers in left.items()
        ]
    at = columns.index("n")
    return [Grid(title, (*columns[:at], "source", *columns[at:]), tuple(rows), (*notes, *printed["notes"]))]


def _alone(name: str) -> Grid:
    printed = table(name)
    columns = ("model.path", "method", *printed["benchmarks"], "average")
    rows = [
        {**_row(base["name"], method, numbers, "", printed, columns), "method": method}
        for base in printed["bases"]
        for method, numbers in base["rows"].items()
    ]
    return Grid("The paper's numbers, as printed", columns, tuple(rows), tuple(printed["notes"]))


def _row(
    base: str, method: str, numbers: Sequence[float], source: str, printed: dict[str, Any], columns: Sequence[str]
) -> dict[str, Entry]:
    names = (*printed["benchmarks"], "average")
    values = {key: Estimate(value) for key, value in zip(names, numbers, strict=True) if key in columns}
    if not {"average", *printed["benchmarks"]} <= set(columns):  # ours is of other benchmarks
        values.pop("average", None)
    who = {key: value for key, value in (("model.path", base), ("resolver", method)) if key in columns}
    return {**who, "source": f"{source}: {method}", **values}


def _short(path: str) -> str:
    return path.rstrip("/").split("/")[-1].casefold()
