"""Single values, by what the schema says is right for each key."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pcr_run
from pcr_run.configuration.compose import no_such
from pcr_run.right import Right
from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Names that are not known and numbers out of range."""
    for key, names in CHOICES.items():
        value = get(cfg, key)
        if value is not None and value not in names and not (key == "resolver.name" and ":" in value):
            yield key, no_such(value, list(names))
    for key, right in RANGES.items():
        value = get(cfg, key)
        if value is not None and not right.holds(value):
            yield key, f"{value} is out of range; right is {right.text}"


def get(cfg: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = getattr(value, part)
    return value


@functools.cache
def names(table: str) -> tuple[str, ...]:
    """The names in ``module:TABLE``, a dict's keys or a tuple, read from its source: importing may load torch."""
    module, _, variable = table.partition(":")
    place = Path(pcr_run.__file__).parent.parent.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            value: Any = node.value  # type: ignore[attr-defined]
            entries: list[Any] = value.keys if isinstance(value, ast.Dict) else value.elts
            return tuple(ast.literal_eval(entry) for entry in entries)
    raise LookupError(table)


def _rules(schema: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in fields(schema):
        if is_dataclass(entry.default_factory):
            yield from _rules(entry.default_factory, f"{prefix}{entry.name}.")
        elif entry.metadata.get("right") is not None:
            yield prefix + entry.name, entry.metadata["right"]


RANGES: dict[str, Right] = {key: right for key, right in _rules() if isinstance(right, Right)}
"""Keys with a test of their values."""

CHOICES: dict[str, tuple[str, ...]] = {
    key: names(right) if isinstance(right, str) else right for key, right in _rules() if not isinstance(right, Right)
}
"""Keys that name one of several things; ``resolver.name`` may also be ``module:Class``."""
