"""Which questions of an embedded task are held out: a property of the question, so no seed can mix the two sides."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Hashable
from typing import TypeVar

from pcr_run.errors import ConfigError

Q = TypeVar("Q", bound=Hashable)
HELD_OUT = 5
"""One question of so many is held out."""


def held_out(question: str) -> bool:
    """Whether a question belongs to the test side. Training, and the tiny model's corpus, use only the others."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:4]) % HELD_OUT == 0


def draw(sample: Callable[[random.Random, int], Q], levels: list[int], seed: int, count: int, test: bool) -> list[Q]:
    """``count`` distinct questions of one side, the levels taking turns.

    ``sample(rng, level)`` makes a random question whose ``str`` is its text. Raises ``ConfigError`` when a level has
    too few different questions.
    """
    rng = random.Random(f"{seed}/{'test' if test else 'train'}")
    found: dict[Q, None] = {}
    for index in range(count):
        level = levels[index % len(levels)]
        for _ in range(10_000):
            question = sample(rng, level)
            if held_out(str(question)) is test and question not in found:
                found[question] = None
                break
        else:
            side = "test" if test else "train"
            raise ConfigError(
                f"task.data.{side}", f"level {level} has too few different questions for {count} items; lower it"
            )
    return list(found)


def check_levels(levels: list[int], known: range) -> list[int]:
    """The levels asked for, or a ``ConfigError`` that says which exist."""
    if not isinstance(levels, list) or not levels or not all(level in known for level in levels):
        raise ConfigError("task.data.levels", f"a list of levels from {known[0]} to {known[-1]}, not {levels!r}")
    return levels
