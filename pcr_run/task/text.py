"""Held-out documents whose perplexity tells what a model retains of its language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.task import language, table
from pcr_run.task.options import check_known, check_types, names

KEY = "evaluation.text"


def load(text: dict[str, Any]) -> list[str]:
    """The documents of ``text["source"]`` (a key of ``SOURCES``), whose other entries are its options.

    Raises ``ConfigError`` for an unknown source or option and where no document is left.
    """
    options = dict(text)
    source = options.pop("source", None)
    if source not in SOURCES:
        raise ConfigError(f"{KEY}.source", f"{source!r} is not known; right: {', '.join(SOURCES)}")
    check_known(KEY, options, names(SOURCES[source]))
    check_types(KEY, SOURCES[source], options)
    documents = SOURCES[source](**options)
    if not documents:
        raise ConfigError(KEY, f"{source} gives no document; at least one is needed")
    return documents


def embedded(documents: int = 200) -> list[str]:
    """Sentences of the little language that the tiny model's corpus leaves out."""
    return language.unseen(documents)


def topics(documents: int = 32, characters: int = 1200) -> list[str]:
    """Beginnings of the longest chapters of Python's own language reference, which every interpreter carries.

    They differ between Python versions, so compare perplexities of one version only.
    """
    from pydoc_data.topics import topics as chapters

    longest = sorted(chapters.values(), key=lambda chapter: (-len(chapter), chapter))
    return [chapter[:characters] for chapter in longest[:documents]]


def hub(
    path: str,
    column: str = "text",
    name: str | None = None,
    split: str = "test",
    revision: str | None = None,
    heading: str | None = None,
    rows: int | None = None,
    documents: int | None = None,
) -> list[str]:
    """One column of a data set on the hub or in local files (see ``table.read``), without empty rows.

    ``heading``: rows are lines, and one that this regular expression matches begins a new document (WikiText as
    published: ``"^ = [^=]"``); ``rows``: how many documents there must be; ``documents``: use the first so many.
    """
    lines = table.read(KEY, path, name, split, revision)
    lines.require(f"{KEY}.column", column)
    cells = [cell or "" for cell in lines.table.data.column(column).to_pylist()]
    if not all(isinstance(cell, str) for cell in cells):
        raise ConfigError(f"{KEY}.column", f"{lines.name}: column {column!r} holds no text")
    try:
        found = cells if heading is None else _joined(cells, re.compile(heading))
    except re.error as error:
        raise ConfigError(f"{KEY}.heading", f"{heading!r} is no regular expression ({error})") from error
    found = [text for text in found if text.strip()]
    table.expect(KEY, "documents", rows, len(found), lines)
    return found[:documents]


def _joined(lines: Iterable[str], heading: re.Pattern[str]) -> list[str]:
    """Lines as documents; a line that is empty in the table was a blank and a line feed in the text."""
    found = [""]
    for line in lines:
        if heading.match(line):
            found.append("")
        found[-1] += line or " \n"
    return found


SOURCES: dict[str, Callable[..., list[str]]] = {"embedded": embedded, "topics": topics, "hub": hub}
