"""Arms: cells that differ in nothing that is compared but their seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.report.cells import Cell

Values = tuple[str, ...]


def arms(cells: Sequence[Cell], keys: Sequence[str]) -> dict[Values, list[Cell]]:
    """Cells by their values of ``keys`` as text, in the order in which they first appear; within an arm by seed."""
    found: dict[Values, list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple(shown(cell.value(key)) for key in keys), []).append(cell)
    return {values: sorted(group, key=lambda cell: cell.seed) for values, group in found.items()}


def by_seed(cells: Sequence[Cell], where: str) -> dict[int, Cell]:
    """The complete cells of an arm by seed; ``ConfigError`` where two have one: the keys do not tell them apart."""
    found: dict[int, Cell] = {}
    for cell in cells:
        if cell.complete:
            other = found.setdefault(cell.seed, cell)
            if other is not cell:
                differing = [key for key in cell.config if cell.value(key) != other.value(key)]
                names = f"{other.directory.name} and {cell.directory.name}"
                raise ConfigError(where, f"does not tell {names} apart; add one of {', '.join(differing[:8])}")
    return found


def partner(values: Values, keys: Sequence[str], against: dict[str, Any], known: Sequence[Values]) -> Values | None:
    """The arm that an arm is compared with: it has the values of ``against`` and else the same.

    Keys of ``resolver.`` and ``measure.`` may differ, as few as possible. None for an arm that is such a one itself.
    """
    wanted = {key: shown(value) for key, value in against.items()}
    if all(value == wanted[key] for key, value in zip(keys, values, strict=True) if key in wanted):
        return None
    found: list[tuple[int, Values]] = []
    for other in known:
        differing = [key for key, a, b in zip(keys, values, other, strict=True) if a != b and key not in wanted]
        right = all(value == wanted[key] for key, value in zip(keys, other, strict=True) if key in wanted)
        if right and all(key.split(".")[0] in ("resolver", "measure") for key in differing):
            found.append((len(differing), other))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def shown(value: Any) -> str:
    """A value of the configuration as a table shows it."""
    return "" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def heading(key: str) -> str:
    """The column of a key: its group where that is plain (``task``), else the key."""
    return key.removesuffix(".name") if key in ("task.name", "resolver.name") else key


def legend(values: Values, keys: Sequence[str]) -> str:
    """An arm in words: ``fixed, alpha 0.2``."""
    parts = []
    for key, value in zip(keys, values, strict=True):
        last = key.split(".")[-1]
        if key == "option":
            parts.append(value)
        elif value:
            plain = last in ("name", "builtin", "path")
            parts.append(value.rstrip("/").split("/")[-1] if plain else f"{last} {value}")
    return ", ".join(parts) or "all runs"
