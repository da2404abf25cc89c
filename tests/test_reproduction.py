"""The numbers of docs/reproduction.md are those of the files that they were made of."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path

import pytest
from fake_sweep import cell, declare

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
SPEC = importlib.util.spec_from_file_location("reproduction", ROOT / "benchmarks" / "reproduction.py")
assert SPEC is not None
assert SPEC.loader is not None
reproduction = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reproduction)
TABLES = {found[1]: found[0] for found in reproduction.BLOCK.finditer(PAGE.read_text())}


def test_there_are_tables():
    assert TABLES


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_its_file(name):
    assert TABLES[name] == reproduction.block(name)


@pytest.mark.parametrize("name", TABLES)
def test_its_numbers_are_those_of_the_data(name):
    rows = list(csv.DictReader((ROOT / "docs" / "results" / f"{name}.csv").open()))
    lines = [line for line in TABLES[name].splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        numbers = [float(text) for text in re.findall(r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?", line)]
        for key, value in row.items():
            if key.endswith("cut %"):
                continue  # a share below 1 is not shown as a number
            try:
                exact = float(value)
            except ValueError:
                continue
            assert any(abs(exact - shown) <= 0.051 or abs(exact - shown) <= 0.006 * abs(exact) for shown in numbers)


def test_what_the_sweep_does_not_have_stays_as_it_was(tmp_path, monkeypatch):
    sweep, docs = tmp_path / "sweep", tmp_path / "docs"
    runs = [cell(sweep, "none", seed, [0.1], [0.25]) for seed in (0, 1)]
    declare(sweep, "fig2", runs, tables=[{"rows": ["resolver.name"]}], figures=[{"kind": "grad_norm"}])
    (docs / "results").mkdir(parents=True)
    monkeypatch.setattr(reproduction, "DOCS", docs)
    for name in ("fig1-1.md", "fig1-1-pareto.png"):
        (docs / "results" / name).write_text("as it was")
    absent = "<!-- table fig1-1 -->\nold\n<!-- end -->\n![](results/fig1-1-pareto.png)\n"
    shown = "<!-- table fig2-1 -->\nold\n<!-- end -->\n![](results/fig2-1-grad_norm.png)\n"
    (docs / "page.md").write_text(f"{absent}\nBetween.\n{shown}")
    reproduction.fill(sweep, docs / "page.md")
    text = (docs / "page.md").read_text()
    assert text.startswith(f"{absent}\nBetween.\n")
    assert "| none" in text
    assert (docs / "results" / "fig1-1.md").read_text() == "as it was"
    assert (docs / "results" / "fig1-1-pareto.png").read_text() == "as it was"
    assert (docs / "results" / "fig2-1.csv").is_file()
    assert (docs / "results" / "fig2-1-grad_norm.png").stat().st_size > 1000


def test_figures_of_the_page_are_there():
    names = reproduction.FIGURE.findall(PAGE.read_text())
    assert names
    assert [name for name in names if not (ROOT / "docs" / "results" / f"{name}.png").is_file()] == []
