"""Held-out documents whose perplexity tells what a model retains of its language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.task import language


def load(text: dict[str, Any]) -> list[str]:
    """The documents of ``text["source"]``: ``embedded``; raises ``ConfigError`` for anything else."""
    options = dict(text)
    source = options.pop("source", None)
    if source not in SOURCES:
        raise ConfigError("evaluation.text.source", f"{source!r} is not known; right: {', '.join(SOURCES)}")
    return SOURCES[source](**options)


def embedded(documents: int = 200) -> list[str]:
    """Sentences of the little language that the tiny model's corpus leaves out."""
    return language.unseen(documents)


SOURCES: dict[str, Callable[..., list[str]]] = {"embedded": embedded}
