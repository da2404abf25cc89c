"""Questions from data sets on the hub or in local files, mathematics or code, by the shape of their rows."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from pcr_run.data import Item, Message
from pcr_run.errors import ConfigError
from pcr_run.task import table
from pcr_run.task.examples import solved
from pcr_run.task.shapes import SHAPES

log = logging.getLogger(__name__)


def load(
    seed: int,
    test: dict[str, Any] | list[dict[str, Any]],
    train: dict[str, Any] | None = None,
    system: str | None = None,
    suffix: str = "",
    shots: int = 0,
) -> tuple[list[Item], list[Item]]:
    """Items of the table ``train`` and of one or several tables ``test``, each described as for ``items``.

    ``system`` is a system message, ``suffix`` text put after every question, and ``shots`` the number of solved
    examples before it (of functions to complete, see ``examples.py``). A training question that is also held
    out is dropped. ``train=None`` makes a benchmark that is only measured. Nothing here depends on ``seed``.
    """
    tables = (
        {"task.data.test": test}
        if isinstance(test, dict)
        else {f"task.data.test.{index}": each for index, each in enumerate(test)}
    )
    before = [*([{"role": "system", "content": system}] if system else []), *solved(shots)]
    held_out = [item for key, each in tables.items() for item in items(key, each, before, suffix)]
    if train is None:
        return [], held_out
    seen = {_question(item) for item in held_out}
    every = items("task.data.train", train, before, suffix)
    kept = [item for item in every if _question(item) not in seen]
    if len(kept) < len(every):
        log.warning("%d training questions are also held out; they are dropped", len(every) - len(kept))
    return kept, held_out


def items(key: str, options: dict[str, Any], before: Sequence[Message] = (), suffix: str = "") -> list[Item]:
    """Items of one table; ``before`` are the messages that precede every question.

    ``options``: ``shape``, a name of ``shapes.SHAPES`` (default ``math``), and its options; those of ``table.read``;
    ``sample``, a number of usable rows to take at random, always the same ones. Raises ``ConfigError`` under ``key``
    for an unknown option, a column that is not there (naming those that are) and a bad row (by its number).
    """
    options = dict(options)
    shape, sample = options.pop("shape", "math"), options.pop("sample", None)
    if shape not in SHAPES:
        raise ConfigError(f"{key}.shape", f"{shape!r} is not known; right: {', '.join(SHAPES)}")
    of_shape = list(inspect.signature(SHAPES[shape]).parameters)[1:]
    of_table = list(inspect.signature(table.read).parameters)[1:]
    for name in options:
        if name not in (*of_shape, *of_table):
            right = ", ".join(["shape", "sample", *of_table, *of_shape])
            raise ConfigError(f"{key}.{name}", f"unknown option; right: {right}")
    if "path" not in options:
        raise ConfigError(f"{key}.path", "not set; give a hub id or local files")
    settings = {name: options.pop(name) for name in of_shape if name in options}
    rows = table.read(key, **options)
    order = range(len(rows)) if sample is None else table.shuffled(len(rows))
    found: list[Item] = []
    for number in order:
        try:
            made = SHAPES[shape](rows[number], **settings)
        except KeyError as missing:
            raise ConfigError(key, f"no column {missing}; there are {', '.join(rows.column_names)}") from missing
        except ValueError as error:
            raise ConfigError(key, f"row {number} of {options['path']}: {error}") from error
        if made is not None:
            prompt = (*before, {"role": "user", "content": made[0] + suffix})
            found.append(Item(f"{options['path']}/{number}", prompt, made[1]))
        if len(found) == sample:
            break
    if not found:
        raise ConfigError(key, f"{options['path']} has no usable row")
    if sample is not None and len(found) < sample:
        raise ConfigError(f"{key}.sample", f"{sample} rows asked for, {len(found)} are usable")
    return found


def _question(item: Item) -> str:
    return " ".join(item.prompt[-1]["content"].split())
