"""Questions from data sets on the hub or in local files, mathematics or code, by the shape of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcr_run.data import Item, Message
from pcr_run.errors import ConfigError
from pcr_run.task import table
from pcr_run.task.examples import solved
from pcr_run.task.options import check_known, check_types, names
from pcr_run.task.shapes import SHAPES, shown


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
    examples before it (of functions to complete, see ``examples.py``). ``train=None`` makes a benchmark that is only
    measured. Nothing here depends on ``seed``.
    """
    tables = (
        {f"task.data.test.{index}": each for index, each in enumerate(test)}
        if isinstance(test, list)
        else {"task.data.test": test}
    )
    before = [*([{"role": "system", "content": system}] if system else []), *solved(shots)]
    held_out = [item for key, each in tables.items() for item in items(key, each, before, suffix)]
    return ([] if train is None else items("task.data.train", train, before, suffix)), held_out


def items(key: str, options: dict[str, Any], before: Sequence[Message] = (), suffix: str = "") -> list[Item]:
    """Items of one table; ``before`` are the messages that precede every question.

    ``options``: ``shape``, a name of ``shapes.SHAPES`` (default ``math``), and its options; those of ``table.read``;
    ``rows``, how many usable ones there must be; ``sample``, a number of them to take at random, always the same ones.
    Raises ``ConfigError`` under ``key`` for an unknown option, a column that is not there (naming those that are), a
    bad row (by its number, from 0) and another number of rows.
    """
    shape, expected, sample, of_shape, of_table = _sorted(key, options)
    rows = table.read(key, **of_table)
    order = rows.numbers if sample is None else [rows.numbers[place] for place in table.shuffled(len(rows.numbers))]
    found: list[Item] = []
    for number in order:
        try:
            made = SHAPES[shape](rows.table[number], **of_shape)
        except KeyError as missing:
            rows.require(key, missing.args[0])
            raise
        except ValueError as error:
            mend = "mend it, or leave such rows out with keep"
            raise ConfigError(key, f"row {number} of {rows.name}: {error}; {mend}") from error
        if made is not None:
            question, reference = made
            prompt = (*before, {"role": "user", "content": shown(shape, question, reference) + suffix})
            found.append(Item(f"{rows.name}/{number}", prompt, reference, question=question))
        if len(found) == sample and expected is None:
            break
    if not found:
        raise ConfigError(key, f"{rows.name} has no usable row")
    table.expect(key, "usable rows", expected, len(found), rows)
    if sample is not None and len(found) < sample:
        raise ConfigError(f"{key}.sample", f"{sample} rows asked for, {len(found)} of {rows.name} are usable")
    return found[:sample]


def _sorted(key: str, options: Any) -> tuple[str, int | None, int | None, dict[str, Any], dict[str, Any]]:
    """Shape, expected number of rows, sample, the shape's and the table's options; ``ConfigError`` for a wrong one."""
    if not isinstance(options, dict):
        raise ConfigError(key, f"a table with its path, like {{path: data.jsonl}}, not {options!r}")
    options = dict(options)
    shape = options.pop("shape", "math")
    expected, sample = options.pop("rows", None), options.pop("sample", None)
    if shape not in SHAPES:
        raise ConfigError(f"{key}.shape", f"{shape!r} is not known; right: {', '.join(SHAPES)}")
    for name, count in (("rows", expected), ("sample", sample)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"{key}.{name}", f"a number of rows from 1 on, or null, not {count!r}")
    shape_knows, table_knows = names(SHAPES[shape], skip=1), names(table.read, skip=1)
    check_known(key, options, ["shape", "rows", "sample", *table_knows, *shape_knows])
    if "path" not in options:
        raise ConfigError(f"{key}.path", "not set; give a hub id or local files")
    of_shape = {name: options.pop(name) for name in shape_knows if name in options}
    check_types(key, SHAPES[shape], of_shape)
    check_types(key, table.read, options)
    return shape, expected, sample, of_shape, options
