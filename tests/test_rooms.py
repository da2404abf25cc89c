"""The house: which room may import from which, held against the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pcr_run

ROOT = Path(pcr_run.__file__).parent
BETWEEN = {"schema", "right", "data", "errors", "seeds", "ragged"}
"""Modules that stand between the rooms: everybody may use them, and they use no room."""

ROOMS: dict[str, set[str]] = {
    "distributed": set(),
    "resolver": set(),
    "records": set(),
    "task": set(),
    "reward": set(),
    "gradients": {"distributed", "resolver"},
    "model": {"task"},
    "tracker": {"records"},
    "report": {"records"},
    "evaluation": {"model", "reward"},
    "rollout": {"distributed", "model"},
    "learner": {"distributed", "model", "gradients", "resolver"},
    "configuration": {"distributed", "model", "records", "resolver", "reward"},
    "run": {"distributed", "evaluation", "learner", "model", "records", "reward", "rollout", "task", "tracker"},
    "cli": {"configuration", "distributed", "records", "report", "run"},
    "__main__": {"cli"},
    "eval": {
        *("cli", "configuration", "distributed", "evaluation", "model", "records", "report", "reward"),
        *("rollout", "run", "task"),
    },
    "hydra_plugins": {"configuration", "eval", "records", "report"},
}
"""Each room and the rooms that it may use, from the ground up."""

FILES = [*sorted(ROOT.rglob("*.py")), *sorted((ROOT.parent / "hydra_plugins").glob("*.py"))]


def room(file: Path) -> str:
    """The room of a file: its folder, or its own name at the top."""
    if not file.is_relative_to(ROOT):
        return "hydra_plugins"
    first = file.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Rooms that a file imports from, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide their room"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("pcr_run.") and name.count(".")}
    return found - {"__version__", "conf"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT.parent)))
def test_imports_point_one_way(file: Path) -> None:
    own = room(file)
    if own == "__init__":
        assert imported(file) == set()
        return
    allowed = BETWEEN if own in BETWEEN else ROOMS[own] | BETWEEN | {own}
    assert imported(file) <= allowed, f"{own} may not use {imported(file) - allowed}"


def test_the_table_is_whole_and_has_no_circle() -> None:
    assert {room(file) for file in FILES} - {"__init__"} == set(ROOMS) | BETWEEN
    seen: set[str] = set()
    for name, uses in ROOMS.items():
        assert uses <= seen, f"{name} stands below {uses - seen}"
        seen.add(name)


def test_every_room_says_what_it_is_for() -> None:
    for folder in {file.parent for file in FILES if file.is_relative_to(ROOT)}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert text, f"{folder} has no docstring"
        if folder != ROOT:
            assert "May import" in text, f"{folder} does not say what it may import"
