"""What a report shows: one section an experiment, declared by files of a sweep or made up from what varies in it."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pcr_run.errors import ConfigError
from pcr_run.report.cells import Cell, varied
from pcr_run.report.option import named
from pcr_run.schema import ClaimConfig, Config, flat, to_dict
from pcr_run.schema.experiment import DIRECTIONS

PRINTED = ("table1",)
LINES = 12
"""More lines in one figure nobody can tell apart."""


@dataclass(frozen=True)
class Table:
    """A table of scores; for the fields see docs/report.md."""

    title: str = "Pass@1"
    rows: tuple[str, ...] = ("resolver.name",)
    benchmarks: tuple[str, ...] | None = None
    against: dict[str, Any] | None = None
    printed: str | None = None
    where: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure; for the fields see docs/report.md. Which of them a kind takes stands in ``FIELDS``."""

    kind: str
    title: str = ""
    by: tuple[str, ...] = ("resolver.name",)
    x: str | None = None
    y: tuple[str, ...] = ()
    along: str | None = None
    where: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A section: its runs are ``cells``, ``missing`` the directories that are named and not there (yet).

    ``given`` is the file as it is, for the claims; ``changed``: when they were, after runs had begun.
    """

    name: str
    cells: tuple[Cell, ...]
    missing: tuple[str, ...] = ()
    title: str = ""
    source: str = ""
    scale: str = ""
    text: str = ""
    order: int = 0
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> list[str]:
        """Times at which the claims became others than those that were fixed before the first run."""
        return [str(entry.get("at")) for entry in (self.given.get("fixed") or [])[1:]]


FIELDS: dict[str, tuple[str, ...]] = {
    "curves": ("x", "y"),
    "time": ("y",),
    "pareto": ("x", "y", "along"),
    "sensitivity": ("x", "y"),
    "forgetting": (),
    "heatmap": ("y",),
    "alpha_density": (),
    "grad_norm": (),
    "cosine": (),
}
"""Kinds of figures and the fields that each takes beside ``title``, ``by``, ``where`` and ``scales``."""

SEVERAL = ("curves", "sensitivity")
"""Kinds with a panel for each measure of ``y``; the others show one."""

TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        (
            *("name", "title", "source", "scale", "text", "kind", "x", "along", "printed", "sha256", "at"),
            *("statistic", "spread", "direction"),
        ),
        (str, "a text"),
    ),
    **dict.fromkeys(("interest", "value"), ((int, float), "a number")),
    "order": (int, "a whole number"),
    **dict.fromkeys(("cells", "rows", "benchmarks", "by", "grids", "scales"), (list, "a list of texts")),
    **dict.fromkeys(("tables", "figures", "fixed"), (list, "a list of mappings")),
    **dict.fromkeys(("of", "against", "where", "claims"), (dict, "a mapping")),
    "y": ((str, list), "a measure or a list of them"),
}
TABLE = ("title", "rows", "benchmarks", "against", "printed", "where")
CLAIM = tuple(field.name for field in fields(ClaimConfig))
SECTION = (
    "name",
    "title",
    "source",
    "scale",
    "text",
    "order",
    "grids",
    "cells",
    "tables",
    "figures",
    "claims",
    "fixed",
)


def read(file: Path) -> dict[str, Any]:
    """The content of an experiment's file; ``ConfigError`` names file and field and says what would be right."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(str(file), f"not readable as JSON ({error})") from error
    check(given, str(file))
    return given


def check(given: Any, file: str, known: Collection[str] | None = None) -> None:
    """Raise ``ConfigError`` unless it is what an experiment's file may say; ``file`` is what the message names.

    ``known``: the flat keys of its runs' configurations, before there are runs.
    """
    _checked(given, SECTION, ("name", "cells"), file)
    if not re.fullmatch(r"[\w.-]+", given["name"]) or given["name"].startswith("."):
        raise ConfigError(f"{file}: name", f"is {given['name']!r}; right are letters, digits, _, - and .")
    for i, entry in enumerate(given.get("fixed") or []):
        _checked(entry, ("sha256", "at"), (), f"{file}: fixed[{i}]")
    for name, claim in (given.get("claims") or {}).items():
        place = f"{file}: claims.{name}"
        _checked(claim, CLAIM, ("text", "statistic", "direction", "interest"), place)
        if claim["direction"] not in DIRECTIONS:
            raise ConfigError(f"{place}.direction", f"is {claim['direction']!r}; right is {', '.join(DIRECTIONS)}")
    for i, table in enumerate(given.get("tables") or []):
        place = f"{file}: tables[{i}]"
        _checked(table, TABLE, ("rows",), place)
        if table.get("printed") not in (None, *PRINTED):
            raise ConfigError(f"{place}.printed", f"is {table['printed']!r}; right is {', '.join(PRINTED)} or null")
        if unknown := [key for key in table.get("against") or {} if key not in table["rows"]]:
            raise ConfigError(f"{place}.against", f"{unknown[0]} does not stand in rows; add it there")
    for i, figure in enumerate(given.get("figures") or []):
        place = f"{file}: figures[{i}]"
        kind = figure.get("kind") if isinstance(figure, dict) else None
        if kind is not None and kind not in FIELDS:
            raise ConfigError(f"{place}.kind", f"is {kind!r}; right is one of {', '.join(FIELDS)}")
        needed = ("kind", "x") if kind == "sensitivity" else ("kind",)
        _checked(figure, ("kind", "title", "by", "where", "scales", *FIELDS.get(str(kind), ())), needed, place)
        if kind not in SEVERAL and isinstance(figure.get("y"), list):
            raise ConfigError(f"{place}.y", f"{kind} shows one measure, not a list")
        if kind == "curves" and figure.get("x") not in (None, "step", "minutes"):
            raise ConfigError(f"{place}.x", f"is {figure['x']!r}; right is step or minutes")
    for place, key in _keys(given):
        if known is not None and key not in (*known, "option"):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "right is a flat key such as resolver.name"
            raise ConfigError(f"{file}: {place}", f"no run has the key {key!r}; {hint}")


def check_declared(experiments: DictConfig, runs: Sequence[Config]) -> None:
    """Raise ``ConfigError`` for what a report could not show of experiments whose runs are still to be made."""
    known = {key for cfg in runs for key, _ in flat(to_dict(cfg))}
    for name in map(str, experiments):
        declared: Any = OmegaConf.to_container(experiments[name], resolve=True)
        check({**declared, "name": name, "cells": [], "grids": None}, f"experiments.{name}", known)


def _keys(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(place, key) of each key of a run's configuration that a checked file's content names."""
    for name, claim in (given.get("claims") or {}).items():
        found = [(field, key) for field in ("of", "against", "where") for key in claim.get(field) or ()]
        found += [("spread", claim["spread"])] if claim.get("spread") else []
        yield from ((f"claims.{name}.{field}", key) for field, key in found)
    for part in ("tables", "figures"):
        for i, each in enumerate(given.get(part) or []):
            found = [(field, key) for field in ("rows", "by", "where") for key in each.get(field) or ()]
            found += [("along", each["along"])] if each.get("along") else []
            found += [("x", each["x"])] if each.get("kind") == "sensitivity" else []
            yield from ((f"{part}[{i}].{field}", key) for field, key in found)


def experiment(given: Mapping[str, Any], cells: Sequence[Cell], missing: Sequence[str]) -> Experiment:
    """An experiment of a checked file's content and its runs."""
    plain = {key: given[key] for key in ("title", "source", "scale", "text", "order") if given.get(key) is not None}
    return Experiment(
        given["name"],
        named(cells),
        tuple(missing),
        **{"title": given["name"], **plain},
        tables=tuple(Table(**_frozen(table)) for table in given.get("tables") or []),
        figures=tuple(Figure(**figure) for figure in _shown(given)),
        given=dict(given),
    )


def default(name: str, cells: Sequence[Cell], title: str) -> Experiment:
    """A section of runs that no experiment names: what varies as rows, and the figures that there is data for.

    Numbers that vary (beta, the learning rate) make the points of a line; figures that cannot show them that way show
    the commonest value where there would be too many lines.
    """
    keys = varied(cells)
    differing = [key for key in keys if len({str(cell.value(key)) for cell in cells}) > 1]
    numbers = [key for key in differing if all(isinstance(cell.value(key), int | float) for cell in cells)]
    names = tuple(key for key in differing if key not in numbers) or ("resolver.name",)
    usual = {key: Counter(cell.value(key) for cell in cells).most_common(1)[0][0] for key in numbers}
    few = len({tuple(str(cell.value(key)) for key in differing) for cell in cells}) <= LINES
    by, where = ((*names, *numbers), {}) if few else (names, usual)
    figures = [Figure("curves", by=by, where=where)]
    if any(len(cell.scores) > 1 or cell.result.get("perplexity") for cell in cells):
        figures.append(Figure("forgetting", by=by, where=where))
    if differing:
        along = numbers[0] if numbers else None
        rest = {key: value for key, value in usual.items() if key != along}
        figures += [Figure("pareto", by=names, x=x, along=along, where=rest) for x in ("perplexity", "kl")]
        figures.append(Figure("time", by=by, where=where))
    for key in numbers:
        rest = {other: value for other, value in usual.items() if other != key}
        figures.append(Figure("sensitivity", by=names, x=key, y=("trained", "perplexity"), where=rest))
    figures.append(Figure("grad_norm", by=by, where=where))
    if any(line.get("cos_update_sta") is not None for cell in cells for line in cell.metrics):
        figures.append(Figure("cosine", by=by, where=where))
    if any(cell.layers for cell in cells):
        figures += [Figure("heatmap", by=by, where=where), Figure("alpha_density", by=by, where=where)]
    plain = "resolver.name" in differing and any(cell.value("resolver.name") == "none" for cell in cells)
    table = Table(rows=tuple(keys), against={"resolver.name": "none"} if plain else None)
    return Experiment(name, tuple(cells), title=title, tables=(table,), figures=tuple(figures))


def _shown(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that the experiment has at its scale."""
    figures = [_frozen(figure) for figure in given.get("figures") or []]
    return [figure for figure in figures if given.get("scale") in figure.pop("scales", (given.get("scale"),))]


def _frozen(given: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, what is null left to its default; one measure as a tuple of it."""
    out: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            out[key] = tuple(value) if isinstance(value, list) else (value,) if key == "y" else value
    return out


def _checked(given: Any, known: Sequence[str], needed: Sequence[str], place: str) -> None:
    if not isinstance(given, dict):
        raise ConfigError(place, "is not a mapping")
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{place}: {key}", f"no such field here; right is one of {', '.join(known)}")
        kind, text = TYPES[key]
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if not wrong and isinstance(value, list) and key not in ("tables", "figures", "fixed"):
            wrong = not all(isinstance(entry, str) for entry in value)
        if value is not None and wrong:
            raise ConfigError(f"{place}: {key}", f"is {value!r}; right is {text}")
    for key in needed:
        if given.get(key) is None:
            raise ConfigError(f"{place}: {key}", "is missing")
