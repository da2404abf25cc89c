"""Fill docs/reproduction.md from a report: ``python benchmarks/reproduction.py outputs/paper-embedded``.

Between ``<!-- table NAME -->`` and ``<!-- end -->`` stands the table of that name, and a figure ``results/NAME.png`` is
that of the report. Both are copied to docs/results/, where a test compares them with the text. What belongs to an
experiment that the sweep does not have stays as it was.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from pcr_run.report import build

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
FIGURE = re.compile(r"\(results/([\w-]+)\.png\)")


def block(name: str) -> str:
    """A table as it stands in the text, which says once what its columns are: without heading and notes of its file.

    Empty where there is none yet.
    """
    file = DOCS / "results" / f"{name}.md"
    table = file.read_text(encoding="utf-8").split("\n\n")[1] if file.is_file() else ""
    return f"<!-- table {name} -->\n{table.strip()}\n<!-- end -->"


def fill(sweep: Path, page: Path = DOCS / "reproduction.md") -> None:
    """Make the sweep's report, copy what the page shows of it, and write the page anew."""
    report = build.write([sweep]).parent
    text = page.read_text(encoding="utf-8")
    there = {path.stem for path in (sweep / "experiments").glob("*.json")}
    (DOCS / "results").mkdir(exist_ok=True)
    for name in BLOCK.findall(text):
        if name.partition("-")[0] in there:
            for ending in ("md", "csv"):
                shutil.copy(report / "tables" / f"{name}.{ending}", DOCS / "results")
    for name in FIGURE.findall(text):
        if name.partition("-")[0] in there:
            shutil.copy(report / "figures" / f"{name}.png", DOCS / "results")
    filled = BLOCK.sub(lambda found: block(found[1]) if found[1].partition("-")[0] in there else found[0], text)
    page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="directory of the experiments")
    fill(parser.parse_args().sweep)
