"""One thing to measure, and the record that many of them make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pcr_run.data import RolloutWorker


@dataclass(frozen=True)
class Piece:
    """A benchmark, the perplexity or a task of lm-eval, ready to be measured on a policy.

    ``section`` and ``names`` say where its result stands in a record (under each name, of which the first is its own;
    ``perplexity`` has none). ``identity`` gives what the result depends on besides the policy and the machine, as JSON
    has it. ``measure`` takes a worker that has the policy's weights, where answers are ``sampled``.
    """

    section: str
    names: tuple[str, ...]
    identity: Callable[[], Mapping[str, Any]]
    measure: Callable[[RolloutWorker | None], Any]
    sampled: bool = False

    @property
    def label(self) -> str:
        """What it is called: its name, else its section."""
        return self.names[0] if self.names else self.section


def record(results: Iterable[tuple[Piece, Any]]) -> dict[str, Any]:
    """``{"tasks": {name: score}, "perplexity": float, "harness": {name: metrics}}``; the last two where measured."""
    out: dict[str, Any] = {"tasks": {}}
    for piece, value in results:
        if not piece.names:
            out[piece.section] = value
        for name in piece.names:
            out.setdefault(piece.section, {})[name] = value
    return out


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON has."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
