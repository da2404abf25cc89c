"""Rows of a data set, from a hub id or from local files, filtered by column."""

from __future__ import annotations

import glob
import random
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError

FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
RULES = ("min", "max", "values")


def read(
    key: str,
    path: str,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    keep: dict[str, dict[str, Any]] | None = None,
) -> Any:
    """One split as a ``datasets.Dataset``.

    ``path`` is a hub id (with its configuration ``name`` and its ``revision``) or local files of one kind: a file or a
    pattern that ends in .json, .jsonl, .csv or .parquet, or ``.gz`` after these. ``keep`` maps a column to a rule:
    ``min`` and ``max`` (inclusive) or ``values``. Raises ``ConfigError`` under ``key`` for what cannot be read and for
    an empty result.
    """
    table = _load(key, path, name, split, revision)
    if keep:
        for column, rule in keep.items():
            if column not in table.column_names:
                raise ConfigError(f"{key}.keep.{column}", f"no such column; there are {', '.join(table.column_names)}")
            if not isinstance(rule, dict) or not rule or set(rule) - set(RULES):
                raise ConfigError(f"{key}.keep.{column}", f"a rule of {', '.join(RULES)}, not {rule!r}")
            values = table[column]
            table = table.select([index for index, value in enumerate(values) if _passes(value, rule)])
    if len(table) == 0:
        raise ConfigError(key, f"{path} ({split}) has no row" + (" that keep lets through" if keep else ""))
    return table


def shuffled(count: int) -> list[int]:
    """0 to count - 1 in an order that is always the same."""
    order = list(range(count))
    random.Random(0).shuffle(order)
    return order


def _passes(value: Any, rule: dict[str, Any]) -> bool:
    return (
        value is not None
        and ("min" not in rule or value >= rule["min"])
        and ("max" not in rule or value <= rule["max"])
        and ("values" not in rule or value in rule["values"])
    )


def _load(key: str, path: str, name: str | None, split: str, revision: str | None) -> Any:
    import datasets

    kind = FORMATS.get(Path(path.removesuffix(".gz")).suffix)
    files = [] if kind is None else _files(key, path)
    try:
        if kind is not None:
            return datasets.load_dataset(kind, data_files={split: files}, split=split)
        return datasets.load_dataset(path, name, split=split, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError, OSError) as error:
        raise ConfigError(
            key,
            f"cannot load {path} ({_first_line(error)}); without network give local files "
            "(.json, .jsonl, .csv, .parquet) with the same columns as path",
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
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
