"""The cells of a sweep as they stand on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.records import jsonl, result
from pcr_run.schema import FREE, flat

READ_BY = {
    "resolver.alpha": ("fixed",),
    "resolver.alpha_scale": ("pcr", "pcr_literal"),
    "resolver.weighting": ("torchjd",),
}
"""Options of a rule that only these of the built-in rules read; rules of a user's own may read all."""


@dataclass(frozen=True)
class Cell:
    """One run directory: its configuration as flat ``{dotted key: value}``, its result, and its records when asked.

    ``option``: what it changes of what the runs of its experiment have in common (``option.named``).
    """

    directory: Path
    config: dict[str, Any]
    result: dict[str, Any]
    option: str = ""

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "complete"

    @property
    def status(self) -> str:
        """``complete``, ``failed``, ``interrupted``, ``running`` (or killed outright) or ``not started``."""
        return str(self.result.get("status", "not started"))

    @property
    def seed(self) -> int:
        """What its random choices come from."""
        return int(self.config["seed"])

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Scores ``before`` and ``after`` by task, the trained one first; without those that are not finite."""
        found = self.result.get("scores")
        known = {task: score for task, score in found.items() if _is_score(score)} if isinstance(found, dict) else {}
        return dict(sorted(known.items(), key=lambda pair: pair[0] != self.config.get("task.name")))

    @property
    def not_trained(self) -> list[str]:
        """Evaluated tasks that were not trained: those of another verifier where there are some, else of another name.

        A benchmark of the same kind (AIME beside training on other problems) says what was learnt, not what was kept.
        """
        own = self.config.get("task.name")
        others = [name for name in self.scores if name != own]
        kind = self.config.get("task.verifier")
        elsewhere = [name for name in others if self.config.get(f"evaluation.tasks.{name}.verifier", kind) != kind]
        return elsewhere or others

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of ``metrics.jsonl``."""
        return self.records("metrics")

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """Lines of ``layers.jsonl``."""
        return self.records("layers")

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Lines of ``evaluations.jsonl``."""
        return self.records("evaluations")

    def records(self, name: str) -> list[dict[str, Any]]:
        """Lines of ``NAME.jsonl``, read anew."""
        return [line for line in jsonl.read(self.directory / f"{name}.jsonl") if isinstance(line, dict)]

    def value(self, key: str) -> Any:
        """A value of the configuration, or its ``option``; None for what the cell's rule does not read."""
        if key == "option":
            return self.option
        rule = str(self.config.get("resolver.name"))
        if key in READ_BY and rule not in READ_BY[key] and ":" not in rule:
            return None
        return self.config.get(key)

    def matches(self, where: dict[str, Any]) -> bool:
        """Whether its values are those of ``where``; a list there stands for any of its values."""
        return all(
            any(self.value(key) == one or str(self.value(key)) == str(one) for one in given)
            for key, given in ((key, value if isinstance(value, list) else [value]) for key, value in where.items())
        )


def load(directory: Path) -> list[Cell]:
    """The runs in a directory, by name; the directory may also be a run itself. ``ConfigError`` where there is none.

    What ``pcr-eval`` has left beside them is no run.
    """
    if not directory.is_dir():
        raise ConfigError(str(directory), "no such directory; give that of a sweep or of a run")
    places = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    every = [read(place) for place in places if (place / "config.yaml").is_file()]
    cells = [cell for cell in every if (cell.config["task.name"], cell.config.get("steps")) != ("evaluation", 0)]
    if every and not cells:
        problem = (
            "holds evaluations by pcr-eval, whose scores are in evaluations.md; give the directory of a sweep or run"
        )
        raise ConfigError(str(directory), problem)
    if not cells:
        raise ConfigError(str(directory), "holds no run; give the directory of a sweep or of a run")
    return cells


def read(directory: Path) -> Cell:
    """One run; ``ConfigError`` where its configuration cannot be read, or is not that of a run."""
    config = dict(flat(result.read_config(directory)))
    for key, kind in (("seed", int), ("task.name", str), ("resolver.name", str)):
        if not isinstance(config.get(key), kind):
            problem = f"{key} is {config.get(key)!r}, so this is no run of pcr-run; move {directory.name} away"
            raise ConfigError(str(directory / "config.yaml"), problem)
    return Cell(directory, config, result.read(directory))


def distinct(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """(cells, repeated ones): of several with one configuration the first complete one counts, else the first."""
    kept: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: not cell.complete):
        own = {key: cell.value(key) for key in sorted(cell.config) if key.split(".")[0] not in FREE}
        kept.setdefault(str(own), cell)
    chosen = {id(cell) for cell in kept.values()}
    return [c for c in cells if id(c) in chosen], [c for c in cells if id(c) not in chosen]


def varied(cells: Sequence[Cell]) -> list[str]:
    """Keys that tell the cells apart, beside the seed: as few as do, ``task.name`` and ``resolver.name`` always first.

    Keys that follow from others (``task.data.source`` from ``task.name``) do not count again.
    """
    chosen = ["task.name", "resolver.name"]
    keys = dict.fromkeys(key for cell in cells for key in cell.config)
    for key in ("scale", *keys):
        if key.split(".")[0] not in (*FREE, "seed", "scale") or key == "scale":
            known = {tuple(str(cell.value(name)) for name in chosen) for cell in cells}
            if len({tuple(str(cell.value(name)) for name in (*chosen, key)) for cell in cells}) > len(known):
                chosen.append(key)
    return chosen


def _is_score(found: Any) -> bool:
    values = [found.get(when) for when in ("before", "after")] if isinstance(found, dict) else [None]
    values = [value.get("pass@1") if isinstance(value, dict) else None for value in values]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
