"""Procedural problems of reasoning-gym for small pre-trained models: a few solved examples, then the question."""

from __future__ import annotations

import inspect
import random
from typing import Any

from pcr_run.data import Item, Message
from pcr_run.errors import ConfigError
from pcr_run.task.split import held_out

SYSTEM = "Answer every question with the final result inside \\boxed{}."


def load(
    seed: int,
    dataset: str = "chain_sum",
    options: dict[str, Any] | None = None,
    shots: int = 4,
    train: int = 512,
    test: int = 64,
) -> tuple[list[Item], list[Item]]:
    """Questions of one reasoning-gym data set; ``options`` go to it (numbers of terms, digits, ...).

    The held-out questions and the solved examples are the same for every seed. An example's solution first completes
    what stands after the question's colon: with nothing but a box to fill, a small model no longer calculates. Raises
    ``ConfigError`` for an unknown data set or option and for a data set with too few different questions.
    """
    examples = _draw(dataset, options, "examples", shots, test=False)
    solved: list[Message] = [{"role": "system", "content": SYSTEM}]
    for question, answer in examples.items():
        solution = f"{question.rpartition(':')[2].strip()} {answer}, so the answer is \\boxed{{{answer}}}."
        solved += [{"role": "user", "content": question}, {"role": "assistant", "content": solution}]

    def items(rows: dict[str, str]) -> list[Item]:
        return [
            Item(f"{dataset}/{question}", (*solved, {"role": "user", "content": question}), answer)
            for question, answer in rows.items()
            if question not in examples
        ]

    return (
        items(_draw(dataset, options, f"train/{seed}", train, test=False)),
        items(_draw(dataset, options, "test", test, test=True)),
    )


def _draw(dataset: str, options: dict[str, Any] | None, seed: str, count: int, test: bool) -> dict[str, str]:
    """``count`` different questions of one side with their answers."""
    size = 20 * count + 200
    source = _create(dataset, options or {}, random.Random(seed).getrandbits(31), size)
    found: dict[str, str] = {}
    for index in range(size):
        if len(found) == count:
            break
        row = source[index]
        if held_out(row["question"]) is test:
            found[row["question"]] = str(row["answer"])
    if len(found) < count:
        raise ConfigError("task.data.options", f"{dataset} made {len(found)} different questions of {count}; widen it")
    return found


def _create(dataset: str, options: dict[str, Any], seed: int, size: int) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ModuleNotFoundError as error:
        raise ConfigError(
            "task.data.source", "reasoning needs reasoning-gym; pip install 'pcr-run[smollm2]'"
        ) from error
    if dataset not in DATASETS:
        raise ConfigError(
            "task.data.dataset", f"reasoning-gym has no {dataset!r}; it has {', '.join(sorted(DATASETS))}"
        )
    known = set(inspect.signature(DATASETS[dataset][1]).parameters) - {"seed", "size"}
    for key in options:
        if key not in known:
            raise ConfigError(f"task.data.options.{key}", f"unknown to {dataset}; it knows {', '.join(sorted(known))}")
    try:
        return create_dataset(dataset, seed=seed, size=size, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError("task.data.options", f"refused by {dataset}: {error}") from error
