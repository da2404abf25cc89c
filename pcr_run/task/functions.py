"""Embedded programming: write ``f(x)`` for a list of operations on a number, a list or a string."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from pcr_run.data import CodeTests, Item
from pcr_run.task.split import check_levels, draw

LEVELS = range(1, 5)
PROMPT = "Write f(x) for a {question}."


@dataclass(frozen=True)
class Operation:
    """What the specification says, the expression that does it, and the range of its constant ``k``."""

    words: str
    code: str
    low: int = 0
    high: int = 0


FAMILIES: dict[str, tuple[Operation, ...]] = {
    "number": (
        Operation("add {k}", "x + {k}", 2, 29),
        Operation("subtract {k}", "x - {k}", 2, 29),
        Operation("multiply by {k}", "x * {k}", 2, 29),
        Operation("divide by {k}", "x // {k}", 2, 29),
    ),
    "list": (
        Operation("append {k}", "x + [{k}]", 2, 29),
        Operation("put {k} first", "[{k}] + x", 2, 29),
        Operation("repeat {k} times", "x * {k}", 2, 9),
        Operation("drop the first {k}", "x[{k}:]", 1, 4),
        Operation("sort", "sorted(x)"),
    ),
    "string": (
        Operation("append {k}", "x + '{k}'", 2, 29),
        Operation("put {k} first", "'{k}' + x", 2, 29),
        Operation("repeat {k} times", "x * {k}", 2, 9),
        Operation("drop the first {k}", "x[{k}:]", 1, 4),
        Operation("reverse", "x[::-1]"),
    ),
}
INPUTS: dict[str, tuple[Any, ...]] = {
    "number": (0, 1, 7, 30, 997),
    "list": ([], [3], [9, 2, 51, 30], [5, 1, 44, 17, 12, 8, 23]),
    "string": ("", "ab", "robin", "notebook"),
}


@dataclass(frozen=True)
class Specification:
    """A family and the operations to apply in order, each with its constant."""

    family: str
    steps: tuple[tuple[Operation, int], ...]

    def __str__(self) -> str:
        return f"{self.family}: " + ", ".join(operation.words.format(k=k) for operation, k in self.steps)

    def program(self) -> str:
        """A right program: one statement an operation."""
        return write([operation.code.format(k=k) for operation, k in self.steps])


def write(expressions: list[str]) -> str:
    """The function that applies ``expressions`` to ``x`` one after the other."""
    *first, last = expressions
    return "\n".join(["def f(x):", *(f"    x = {code}" for code in first), f"    return {last}"])


def sample(rng: random.Random, level: int) -> Specification:
    """A random specification of ``level`` operations."""
    family = rng.choice(list(FAMILIES))
    operations = rng.choices(FAMILIES[family], k=level)
    return Specification(family, tuple((op, rng.randint(op.low, op.high)) for op in operations))


def item(spec: Specification) -> Item:
    """The question for a specification, its tests with the values that the right program gives."""
    namespace: dict[str, Any] = {}
    exec(spec.program(), namespace)  # our own text: it gives the expected values
    tests = tuple(f"assert f({value!r}) == {namespace['f'](value)!r}" for value in INPUTS[spec.family])
    prompt = ({"role": "user", "content": PROMPT.format(question=spec)},)
    meta = {"level": len(spec.steps), "family": spec.family}
    return Item(f"functions/{spec}", prompt, CodeTests("f", tests), meta)


def load(
    seed: int, levels: list[int] | None = None, train: int | None = 512, test: int = 128
) -> tuple[list[Item], list[Item]]:
    """Training specifications drawn with ``seed`` and the same held-out ones for every seed; the levels take turns.

    ``train=None`` makes a benchmark that is only measured.
    """
    levels = check_levels(list(LEVELS) if levels is None else levels, LEVELS)
    return (
        [item(spec) for spec in draw(sample, levels, seed, train or 0, test=False)],
        [item(spec) for spec in draw(sample, levels, 0, test, test=True)],
    )
