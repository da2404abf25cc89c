"""Writes ``report/``: tables, figures and the page, from the files of runs alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.report import cells as cells_on_disk
from pcr_run.report import claims, experiment, figures, grid, page
from pcr_run.report.arms import heading, shown
from pcr_run.report.cells import Cell, distinct, varied
from pcr_run.report.experiment import Experiment
from pcr_run.report.figures.style import rendered
from pcr_run.report.grid import Entry, Estimate, Grid
from pcr_run.report.measures import final
from pcr_run.report.page import Picture, Section
from pcr_run.report.remarks import remarks
from pcr_run.report.tables import tables
from pcr_run.report.transcripts import sample

log = logging.getLogger(__name__)


def softly(directory: Path, cells: Sequence[Cell] | None = None) -> None:
    """``write`` at the end of a run or a sweep, whose work must not be lost by it: what goes wrong is one warning."""
    try:
        write([directory], read=None if cells is None else {directory: cells})
    except Exception as error:  # whatever it is, the files of the runs are complete
        log.warning("no report: %s: %s; `pcr-report %s` makes it again", type(error).__name__, error, directory)
        log.debug("traceback", exc_info=True)


def write(
    directories: Sequence[Path], out: Path | None = None, read: Mapping[Path, Sequence[Cell]] | None = None
) -> Path:
    """Make the report of runs and sweeps in ``out`` (default: ``report/`` in the first); returns its page.

    ``read``: the cells of directories that have been read.

    Raises ``ConfigError`` for a directory without runs and for an experiment that is not right.
    """
    out = out or directories[0] / "report"
    experiments, repeated = collect(directories, read)
    sections, written = [], {}
    judged = claims.outcomes(experiments)
    for each in experiments:
        section, files = _section(each, judged.get(each.name), repeated if each is experiments[-1] else [])
        sections.append(section)
        written.update(files)
    every = list({id(cell): cell for each in experiments for cell in each.cells}.values())
    title = " and ".join(directory.name for directory in directories)
    written["report.html"] = _bytes(page.render(title, sections, runs(every), *sample(every)))
    _replace(out, written)
    if len(directories) == 1 and (directories[0] / "config.yaml").is_file() and out == directories[0] / "report":
        # a run: its learning curves beside its result
        (directories[0] / "curves.png").write_bytes(written[f"figures/{experiments[0].name}-1-curves.png"])
    return out / "report.html"


def collect(
    directories: Sequence[Path], read: Mapping[Path, Sequence[Cell]] | None = None
) -> tuple[list[Experiment], list[Cell]]:
    """(experiments in their order, repeated runs): the declared ones, then one of the runs that none of them names."""
    found: list[tuple[Path, dict[str, Any]]] = []
    known: dict[Path, Cell] = {}
    for directory in directories:
        declared = sorted((directory / "experiments").glob("*.json"))
        try:
            cells = read[directory] if read and directory in read else cells_on_disk.load(directory)
            known |= {cell.directory.resolve(): cell for cell in cells}
        except ConfigError:
            if not declared or not directory.is_dir():
                raise
        for file in declared:
            found.append((directory, experiment.read(file)))
    named: set[Path] = set()
    declared_ones: list[Experiment] = []
    for directory, given in sorted(found, key=lambda pair: (pair[1].get("order") or 0, pair[1]["name"])):
        own, missing = [], []
        for name in given["cells"]:
            place = (directory / name).resolve()
            if place not in known and (place / "config.yaml").is_file():
                known[place] = cells_on_disk.read(place)
            own += [known[place]] if place in known else []
            missing += [] if place in known else [name]
            named.add(place)
        made = experiment.experiment(given, own, missing)
        declared_ones.append(replace(made, name=_free(made.name, declared_ones)))
    rest, repeated = distinct([cell for place, cell in known.items() if place not in named])
    if rest:
        title = "Other runs" if declared_ones else "All runs" if len(rest) > 1 else rest[0].directory.name
        name = "other" if declared_ones else "runs"
        declared_ones.append(experiment.default(_free(name, declared_ones), rest, title))
    return declared_ones, repeated


def _free(name: str, taken: Sequence[Experiment]) -> str:
    """A name for files that no other section has: those of two directories may be called the same."""
    names = [each.name for each in taken]
    return next(found for i in range(1, len(names) + 2) if (found := f"{name}.{i}" if i > 1 else name) not in names)


def runs(cells: Sequence[Cell]) -> Grid:
    """Every run with the keys in which runs differ, its outcome and its time."""
    keys = [key for key in varied(cells) if len({str(cell.value(key)) for cell in cells}) > 1]
    rows: list[dict[str, Entry]] = []
    for cell in cells:
        row: dict[str, Entry] = {"run": cell.directory.name, "status": cell.status, "seed": str(cell.seed)}
        row |= {heading(key): shown(cell.value(key)) for key in keys}
        row["steps"] = f"{len(cell.metrics)} of {cell.config.get('steps', '?')}"
        for name, measure, when in (("before", "trained", "before"), ("after", "trained", "after")):
            value = final(cell, measure, when)
            row[name] = Estimate(value) if value == value else None
        minutes = final(cell, "minutes")
        row["minutes"] = Estimate(minutes) if minutes == minutes else None
        row["reason"] = "" if cell.complete else str(cell.result.get("reason") or "no result; see run.log")[:300]
        rows.append(row)
    columns = ("run", "status", "seed", *map(heading, keys), "steps", "before", "after", "minutes", "reason")
    note = "before, after: Pass@1 on the trained task in percent; minutes: of training; else keys in which runs differ."
    return Grid("Runs", columns, tuple(rows), (note,))


def _section(each: Experiment, table: Grid | None, repeated: Sequence[Cell]) -> tuple[Section, dict[str, bytes]]:
    """An experiment's part of the page, and its files."""
    grids = [g for i, t in enumerate(each.tables) for g in tables(each, t, f"{each.name}: tables[{i}]")]
    grids = [g for g in grids if g.rows]
    tabled = [*_named(each.name, grids), *([] if table is None else [(f"{each.name}-claims", table)])]
    written = {f"tables/{name}": _bytes(content) for name, content in grid.files(tabled)}
    pictures = []
    for i, figure in enumerate(each.figures, 1):
        drawing = figures.draw(figure, each.cells)
        forms = rendered(drawing)
        file = f"{each.name}-{i}-{figure.kind}"
        written |= {f"figures/{file}.{ending}": content for ending, content in forms.items()}
        pictures.append(Picture(figures.caption(figure), forms["svg"], file, drawing.get_figwidth() > 7))
    return Section(each, grids, pictures, table, remarks(each.cells, each.missing, repeated, each.changed)), written


def _named(name: str, grids: Sequence[Grid]) -> Iterator[tuple[str, Grid]]:
    """Names of files: the experiment's with a number, the details of a table with that of the table."""
    number = 0
    for each in grids:
        details = each.title.endswith(": details")
        number += not details
        yield f"{name}-{number}{'-details' if details else ''}", each


def _bytes(text: str) -> bytes:
    """UTF-8; a question mark for what is no character, as the name of a directory may hold."""
    return text.encode("utf-8", "replace")


def _replace(out: Path, files: dict[str, bytes]) -> None:
    """Write all files, each whole or not at all, and remove those of an earlier report that are no more.

    Another process may do the same at once, such as ``--watch`` while a sweep ends.
    """
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for old in (out / folder).iterdir():
            if f"{folder}/{old.name}" not in files and old.suffix != ".tmp" and old.is_file():
                old.unlink(missing_ok=True)
    for name, content in files.items():
        temporary = out / f"{name}.{os.getpid()}.tmp"
        temporary.write_bytes(content)
        temporary.replace(out / name)
