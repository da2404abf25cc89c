"""Reasoning-gym questions with solved examples."""

from __future__ import annotations

import pytest

from pcr_run import task
from pcr_run.errors import ConfigError
from pcr_run.schema import TaskConfig
from pcr_run.task import reasoning

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}


def make(seed: int = 0, **options) -> task.Task:
    data = {"source": "reasoning", "options": SUMS, "train": 40, "test": 10, **options}
    return task.make(TaskConfig("math", "math", data), seed)


def test_the_answers_are_right_and_the_sides_are_fixed() -> None:
    first, second = make(0), make(1)
    assert first.test == second.test != first.train[:10]
    assert first.train != second.train
    for item in (*first.train, *first.test):
        question = item.prompt[-1]["content"]
        assert eval(question.rpartition(":")[2].rstrip(" =")) == int(item.reference)  # reasoning-gym's digits and signs


def test_solved_examples_calculate_box_and_are_never_asked() -> None:
    made = make(shots=3)
    system, *examples, question = made.test[0].prompt
    assert system["role"] == "system"
    assert [message["role"] for message in examples] == ["user", "assistant"] * 3
    shown = {message["content"] for message in examples if message["role"] == "user"}
    assert not shown & {item.prompt[-1]["content"] for item in (*made.train, *made.test)}
    for ask, solve in zip(examples[::2], examples[1::2], strict=True):
        total = eval(ask["content"].rpartition(":")[2].rstrip(" ="))
        assert solve["content"].endswith(f"= {total}, so the answer is \\boxed{{{total}}}.")
    assert question["role"] == "user"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"dataset": "chain_sums"}, "task.data.dataset"),
        ({"options": {"terms": 2}}, "task.data.options.terms"),
        ({"options": {"min_terms": 5, "max_terms": 2}}, "task.data.options"),
        (
            {"options": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, "train": 900},
            "task.data.options",
        ),
    ],
)
def test_bad_options_are_named(options, key) -> None:
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert error.value.key == key


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ConfigError, match="pip install"):
        reasoning.load(0)
