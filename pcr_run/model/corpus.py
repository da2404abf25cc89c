"""What the tiny model reads before reinforcement: worked solutions by careless writers, and a little language.

The writer of a solution slips in its i-th step with probability ``SLIP * i`` and carries on from the wrong value. A
model that has learned the corpus is calibrated to it, as models are after pre-training: sampled at temperature 1 it is
nearly always right in one step and seldom in four. So the base score is set by the corpus and not by where training
stopped, and reinforcement has right answers to prefer at every level.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pcr_run.task import arithmetic, functions, language
from pcr_run.task.split import held_out

SLIP = 0.12
SHARES = {"math": 0.37, "code": 0.48, "language": 0.15}


@dataclass(frozen=True)
class Document:
    """A question and its answer, or a plain text (``prompt`` is None)."""

    prompt: str | None
    text: str


def documents(seed: int) -> Iterator[Document]:
    """Endless documents; never a held-out question or sentence."""
    rng = random.Random(seed)
    makers = {"math": _math, "code": _code, "language": _language}
    while True:
        (kind,) = rng.choices(list(SHARES), weights=list(SHARES.values()))
        if (document := makers[kind](rng)) is not None:
            yield document


def _math(rng: random.Random) -> Document | None:
    chain = arithmetic.sample(rng, rng.choice(arithmetic.LEVELS))
    if held_out(str(chain)):
        return None
    value, lines = chain.start, []
    for index, term in enumerate(chain.terms, 1):
        result = value + term
        if rng.random() < SLIP * index:
            result = max(0, result + rng.choice((-10, -1, 1, 10)))
        lines.append(f"{value}{term:+d}={result}")
        value = result
    return Document(arithmetic.PROMPT.format(question=chain), "\n".join([*lines, f"\\boxed{{{value}}}"]))


def _code(rng: random.Random) -> Document | None:
    spec = functions.sample(rng, rng.choice(functions.LEVELS))
    if held_out(str(spec)):
        return None
    expressions = []
    for index, (operation, k) in enumerate(spec.steps, 1):
        if rng.random() < SLIP * index:
            operation, k = rng.choice(functions.FAMILIES[spec.family]), max(1, k + rng.choice((-1, 1)))
        expressions.append(operation.code.format(k=k))
    return Document(functions.PROMPT.format(question=spec), f"```python\n{functions.write(expressions)}\n```")


def _language(rng: random.Random) -> Document | None:
    text = language.sentence(rng)
    return None if held_out(text) else Document(None, text)
