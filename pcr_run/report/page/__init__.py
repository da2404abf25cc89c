"""Tables, figures and transcripts in; one page that needs no network out. May import records."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pcr_run.report.experiment import Experiment
from pcr_run.report.grid import Entry, Grid, text

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its caption, its SVG, the name of its files, whether it needs the page's whole width."""

    title: str
    svg: bytes
    file: str
    broad: bool

    @property
    def source(self) -> str:
        """As an address that holds the picture: nothing in it can run or reach the rest of the page."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Section:
    """An experiment with what was made of it."""

    experiment: Experiment
    grids: Sequence[Grid]
    pictures: Sequence[Picture]
    claims: Grid | None
    remarks: Sequence[str]


def render(
    title: str, sections: Sequence[Section], runs: Grid, transcripts: Sequence[dict[str, Any]], there: int
) -> str:
    """The page. Only its own script and style may run, known by their hashes; nothing may be loaded."""
    script, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.globals["entry"] = _entry
    page = jinja.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        runs=runs,
        transcripts=transcripts,
        there=there,
        names=[str(row["run"]) for row in runs.rows],
        data=_embedded({"runs": [str(row["run"]) for row in runs.rows], "transcripts": transcripts}),
        policy=f"{policy}; base-uri 'none'; form-action 'none'",
        script=Markup(script),
        style=Markup(style),
    )
    return page


def _entry(entry: Entry) -> str:
    return text(entry)


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _embedded(data: Any) -> Markup:
    """JSON inside a script element: no character of it can end the element or a line of the script."""
    out = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028 either
    for character in "<>&":
        out = out.replace(character, f"\\u{ord(character):04x}")
    return Markup(out)
