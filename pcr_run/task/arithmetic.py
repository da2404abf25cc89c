"""Embedded mathematics: chains of additions and subtractions, a level for each number of steps."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pcr_run.data import Item
from pcr_run.task.split import check_levels, draw

LEVELS = range(1, 5)
LARGEST = 29
PROMPT = "Compute {question}."


@dataclass(frozen=True)
class Chain:
    """``start`` followed by signed terms; no running value leaves 0..LARGEST."""

    start: int
    terms: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.start) + "".join(f"{term:+d}" for term in self.terms)

    @property
    def answer(self) -> int:
        """The value of the chain."""
        return self.start + sum(self.terms)


def sample(rng: random.Random, level: int) -> Chain:
    """A random chain of ``level`` terms."""
    start = value = rng.randint(2, LARGEST)
    terms = []
    for _ in range(level):
        size = rng.randint(2, 9)
        sign = rng.choice((1, -1))
        if not 0 <= value + sign * size <= LARGEST:
            sign = -sign
        terms.append(sign * size)
        value += sign * size
    return Chain(start, tuple(terms))


def item(chain: Chain) -> Item:
    """The question for a chain and its value."""
    prompt = ({"role": "user", "content": PROMPT.format(question=chain)},)
    return Item(f"arithmetic/{chain}", prompt, str(chain.answer), {"level": len(chain.terms)})


def load(
    seed: int, levels: list[int] | None = None, train: int | None = 512, test: int = 128
) -> tuple[list[Item], list[Item]]:
    """Training problems drawn with ``seed`` and the same held-out problems for every seed; the levels take turns.

    ``train=None`` makes a benchmark that is only measured.
    """
    levels = check_levels(list(LEVELS) if levels is None else levels, LEVELS)
    return (
        [item(chain) for chain in draw(sample, levels, seed, train or 0, test=False)],
        [item(chain) for chain in draw(sample, levels, 0, test, test=True)],
    )
