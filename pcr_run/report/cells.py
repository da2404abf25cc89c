"""The cells of a sweep as they stand on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.records import result
from pcr_run.schema import FREE


@dataclass(frozen=True)
class Cell:
    """One run directory: its configuration as flat ``{dotted key: value}`` and its result."""

    directory: Path
    config: dict[str, Any]
    result: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "complete"

    @property
    def status(self) -> str:
        """``complete``, ``failed``, ``interrupted``, ``running`` (or killed outright) or ``not started``."""
        return str(self.result.get("status", "not started"))


def load(directory: Path) -> list[Cell]:
    """The runs in a directory, by name; the directory may also be a run itself. ``ConfigError`` where there is none."""
    if not directory.is_dir():
        raise ConfigError(str(directory), "no such directory; give that of a sweep or of a run")
    places = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    cells = [
        Cell(place, dict(_flat(result.read_config(place))), result.read(place))
        for place in places
        if (place / "config.yaml").is_file()
    ]
    if not cells:
        raise ConfigError(str(directory), "holds no run; give the directory of a sweep or of a run")
    return cells


def varied(cells: list[Cell]) -> list[str]:
    """Keys that tell the cells apart, beside the seed: as few as do, ``task.name`` and ``resolver.name`` always first.

    Keys that follow from others (``task.data.source`` from ``task.name``) do not count again.
    """
    chosen = ["task.name", "resolver.name"]
    keys = dict.fromkeys(key for cell in cells for key in cell.config)
    for key in ("scale", *keys):
        if key.split(".")[0] not in (*FREE, "seed", "scale") or key == "scale":
            known = {tuple(_text(cell, name) for name in chosen) for cell in cells}
            if len({tuple(_text(cell, name) for name in (*chosen, key)) for cell in cells}) > len(known):
                chosen.append(key)
    return chosen


def _text(cell: Cell, key: str) -> str:
    return str(cell.config.get(key))


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
