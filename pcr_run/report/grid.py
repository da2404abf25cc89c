"""A table apart from how it is written: rows of texts, numbers and estimates, as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pcr_run.records.number import number


@dataclass(frozen=True)
class Estimate:
    """A number with ``half`` of its 95% interval and the share ``cut`` of truncated answers in percent."""

    value: float
    half: float | None = None
    cut: float | None = None
    sign: str = ""
    places: int = 1

    def text(self, pm: str = "±") -> str:
        """As a person reads it: ``48.1 ± 1.2 (3% cut)``."""
        half = "" if self.half is None else f" {pm} {self.half:.{self.places}f}"
        cut = "" if not self.cut else " (<1% cut)" if self.cut < 1 else f" ({self.cut:.0f}% cut)"
        return f"{number(self.value, self.places, self.sign)}{half}{cut}"


Entry = str | int | float | Estimate | None


@dataclass(frozen=True)
class Grid:
    """A table. ``notes`` are sentences below it; a row need not have every column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Entry], ...]
    notes: tuple[str, ...] = ()

    def shown(self) -> list[str]:
        """The columns that have a value in some row."""
        return [name for name in self.columns if any(row.get(name) not in (None, "") for row in self.rows)]

    def numeric(self, name: str) -> bool:
        """Whether a column has no text."""
        return not any(isinstance(row.get(name), str) and row.get(name) for row in self.rows)


def text(entry: Entry, pm: str = "±") -> str:
    """An entry as a person reads it."""
    if entry is None:
        return ""
    if isinstance(entry, Estimate):
        return entry.text(pm)
    return number(entry, 2) if isinstance(entry, float) else str(entry)


def markdown(grid: Grid) -> str:
    """Title, aligned table, notes; reads well as plain text too."""
    names = grid.shown()
    lines = [[in_markdown(cell) for cell in names]]
    lines += [[in_markdown(text(row.get(name))) for name in names] for row in grid.rows]
    notes = [f"- {in_markdown(note)}" for note in grid.notes]
    return "\n".join([f"## {in_markdown(grid.title)}", "", aligned(lines), "", *notes]).rstrip() + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells that are safe in Markdown, the first line as heading, as a table that also reads well as plain text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in ruled)


def to_csv(grid: Grid) -> str:
    """One line a row; an estimate has a column for each of its numbers. No cell of text can become a formula."""
    names: list[tuple[str, str, Callable[[Entry], Entry]]] = []
    for name in grid.shown():
        entries = [row.get(name) for row in grid.rows]
        names.append((name, name, lambda e: e.value if isinstance(e, Estimate) else e))
        if any(isinstance(e, Estimate) and e.half is not None for e in entries):
            names.append((name, f"{name} ci95", lambda e: e.half if isinstance(e, Estimate) else None))
        if any(isinstance(e, Estimate) and e.cut is not None for e in entries):
            names.append((name, f"{name} cut %", lambda e: e.cut if isinstance(e, Estimate) else None))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([in_csv(title) for _, title, _ in names])
    writer.writerows([in_csv(pick(row.get(name))) for name, _, pick in names] for row in grid.rows)
    return out.getvalue()


def latex(grid: Grid) -> str:
    """A ``table`` of booktabs; numbers right, texts left, notes below."""
    names = grid.shown()
    lines = [[in_latex(name) for name in names]]
    lines += [[_latex(row.get(name)) for name in names] for row in grid.rows]
    align = "".join("r" if grid.numeric(name) else "l" for name in names)
    body = [" & ".join(line) + r" \\" for line in lines]
    notes = [rf"\par\footnotesize {in_latex(note)}" for note in grid.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_latex(grid.title)}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def files(grids: Iterable[tuple[str, Grid]]) -> Iterator[tuple[str, str]]:
    """(file name, content) of every grid in every form."""
    for name, grid in grids:
        for ending, write in (("md", markdown), ("csv", to_csv), ("tex", latex)):
            yield f"{name}.{ending}", write(grid)


def in_markdown(value: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    value = _line(value).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", value)


def in_csv(value: Entry) -> Entry:
    """A spreadsheet takes a text that begins like a formula for one: an apostrophe keeps it a text."""
    if isinstance(value, str):
        value = value.replace("\r", " ")  # which the csv module does not quote
        return f"'{value}" if value.lstrip().startswith(("=", "+", "-", "@")) else value
    return None if isinstance(value, float) and math.isnan(value) else value


LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",  # \textquotedbl does not exist in LaTeX's default encoding, where | is a dash
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "-": "{-}",
}


def in_latex(value: str) -> str:
    """A text that LaTeX shows as it is, on one line; ligatures of hyphens are kept apart."""
    return "".join(LATEX.get(c, c) for c in _line(value))


def _latex(entry: Entry) -> str:
    """Numbers keep their minus sign as one."""
    if isinstance(entry, str):
        return in_latex(entry)
    return re.sub(r"(^|[ (])-(?=\d)", r"\1$-$", text(entry, r"$\pm$")).replace("%", r"\%").replace("<", "$<$")


def _line(value: str) -> str:
    """On one line, without characters that control something."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", value)
