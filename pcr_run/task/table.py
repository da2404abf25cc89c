"""Rows of a data set, from a hub id or from local files, filtered by column."""

from __future__ import annotations

import glob
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError

FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
RULES = ("min", "max", "values", "except", "match")


@dataclass(frozen=True)
class Rows:
    """A split as a ``datasets.Dataset``, the numbers of the rows that ``keep`` lets through, and a name for both."""

    name: str
    table: Any
    numbers: Sequence[int]

    def require(self, key: str, column: str) -> None:
        """Raise ``ConfigError`` for a column that is not there; it names those that are."""
        if column not in self.table.column_names:
            raise ConfigError(key, f"{self.name}: no column {column!r}; there are {', '.join(self.table.column_names)}")


def read(
    key: str,
    path: str,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    keep: dict[str, dict[str, Any]] | None = None,
) -> Rows:
    """The rows of one split.

    ``path`` is a hub id (with its configuration ``name`` and its ``revision``) or local files of one kind: a file or a
    pattern that ends in .json, .jsonl, .csv or .parquet, or ``.gz`` after these. ``keep`` maps a column to a rule:
    ``min`` and ``max`` (inclusive), ``values``, ``except`` (other values than these) or ``match`` (a regular expression
    that is found in it); an empty cell passes no rule. Raises ``ConfigError`` under ``key`` for what cannot be read and
    for an empty result.
    """
    table, place = _load(key, path, name, split, revision)
    rows = Rows(place, table, range(len(table)))
    for column, rule in (keep or {}).items():
        here = f"{key}.keep.{column}"
        rows.require(here, column)
        _check(here, rule)
        passing = set(_passing(here, place, table.data.column(column).to_pylist(), rule))
        rows = Rows(place, table, [number for number in rows.numbers if number in passing])
    if not rows.numbers:
        raise ConfigError(key, f"{place} has no row" + (" that keep lets through" if len(table) else ""))
    return rows


def expect(key: str, what: str, expected: int | None, found: int, rows: Rows) -> None:
    """Raise ``ConfigError`` where another number of ``what`` (usable rows, documents) is ``expected``."""
    if expected is None or expected == found:
        return
    kept = "" if len(rows.numbers) == len(rows.table) else f", {len(rows.numbers)} of which pass keep"
    raise ConfigError(
        f"{key}.rows",
        f"{rows.name} has {found} {what}, {expected} are right (of {len(rows.table)} rows{kept}); "
        f"give the complete data, or set rows to {found} or null if these are the ones you mean",
    )


def shuffled(count: int) -> list[int]:
    """0 to count - 1 in an order that is always the same."""
    order = list(range(count))
    random.Random(0).shuffle(order)
    return order


def _check(key: str, rule: Any) -> None:
    """A rule of known parts, or ``ConfigError``."""
    if not isinstance(rule, dict) or not rule or set(rule) - set(RULES):
        raise ConfigError(key, f"a rule of {', '.join(RULES)}, not {rule!r}")
    for part in ("values", "except"):
        if not isinstance(rule.get(part, []), list):
            raise ConfigError(f"{key}.{part}", f"a list of values, not {rule[part]!r}")
    try:
        re.compile(rule.get("match", ""))
    except (re.error, TypeError) as error:
        raise ConfigError(f"{key}.match", f"{rule['match']!r} is no regular expression ({error})") from error


def _passing(key: str, place: str, values: Iterable[Any], rule: Mapping[str, Any]) -> Iterable[int]:
    for number, value in enumerate(values):
        try:
            if _passes(value, rule):
                yield number
        except TypeError as error:
            raise ConfigError(key, f"row {number} of {place}: {value!r} cannot be held against {rule}") from error


def _passes(value: Any, rule: Mapping[str, Any]) -> bool:
    return (
        value is not None
        and ("min" not in rule or value >= rule["min"])
        and ("max" not in rule or value <= rule["max"])
        and ("values" not in rule or value in rule["values"])
        and ("except" not in rule or value not in rule["except"])
        and ("match" not in rule or re.search(rule["match"], value) is not None)
    )


def _load(key: str, path: str, name: str | None, split: str, revision: str | None) -> tuple[Any, str]:
    """The data set and what messages and items call it: its files, or its id, configuration and split."""
    import datasets

    kind = FORMATS.get(Path(path.removesuffix(".gz")).suffix)
    files = [] if kind is None else _files(key, path)
    try:
        if kind is not None:
            side = re.split(r"\W", split)[0]  # of "train[:10]"
            return datasets.load_dataset(kind, data_files={side: files}, split=split), path
        found = datasets.load_dataset(path, name, split=split, revision=revision)
        return found, "/".join([path, *([name] if name else []), split])
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError, OSError) as error:
        raise ConfigError(
            key,
            f"cannot load {path} ({_first_line(error)}); without network give local files "
            "(.json, .jsonl, .csv, .parquet) with the same columns as path",
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        if "corresponds to no data" in str(error):
            raise ConfigError(key, f"{path} has no row; at least one is needed") from error
        if isinstance(error.__cause__, datasets.table.CastError):
            raise ConfigError(key, f"the files {path} differ in their columns or types; give like ones") from error
        raise ConfigError(key, f"cannot read {path} ({_first_line(error.__cause__ or error)})") from error


def _files(key: str, path: str) -> list[str]:
    """The local files that a path or pattern names."""
    files = sorted(glob.glob(str(Path(path).expanduser())))  # noqa: PTH207 - the pattern may be absolute
    if not files:
        raise ConfigError(key, f"no file {path}")
    if not any(Path(file).stat().st_size for file in files):
        raise ConfigError(key, f"{path} is empty; at least one row is needed")
    return files


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
