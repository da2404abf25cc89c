"""Held-out documents whose perplexity tells what a model retains of its language."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.task import language, table

KEY = "evaluation.text"


def load(text: dict[str, Any]) -> list[str]:
    """The documents of ``text["source"]`` (a key of ``SOURCES``), whose other entries are its options.

    Raises ``ConfigError`` for an unknown source or option and where no document is left.
    """
    options = dict(text)
    source = options.pop("source", None)
    if source not in SOURCES:
        raise ConfigError(f"{KEY}.source", f"{source!r} is not known; right: {', '.join(SOURCES)}")
    known = inspect.signature(SOURCES[source]).parameters
    for key in options:
        if key not in known:
            raise ConfigError(f"{KEY}.{key}", f"unknown option; {source} knows {', '.join(known)}")
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
    documents: int | None = None,
) -> list[str]:
    """One column of a data set on the hub or in local files (see ``table.read``), without empty rows."""
    rows = table.read(KEY, path, name, split, revision)
    if column not in rows.column_names:
        raise ConfigError(f"{KEY}.column", f"no column {column!r}; there are {', '.join(rows.column_names)}")
    return [text for text in rows[column] if text.strip()][:documents]


SOURCES: dict[str, Callable[..., list[str]]] = {"embedded": embedded, "topics": topics, "hub": hub}
