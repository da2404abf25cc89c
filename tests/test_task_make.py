"""Tasks from their configuration: sources, options, sides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pcr_run import task
from pcr_run.data import Item
from pcr_run.errors import ConfigError
from pcr_run.schema import TaskConfig


def cfg(source: str | None, **options) -> TaskConfig:
    return TaskConfig(name="t", verifier="math", data={"source": source, **options} if source else options)


def questions(items) -> set[str]:
    return {item.prompt[-1]["content"] for item in items}


def item(text: str) -> Item:
    return Item(text, ({"role": "user", "content": text},), "1")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(body: str) -> None:
        (tmp_path / "my_questions.py").write_text(
            "from pcr_run.data import Item\n"
            "def item(text): return Item(text, ({'role': 'user', 'content': text},), '1')\n" + body
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "my_questions", raising=False)

    return write


@pytest.mark.parametrize("source", ["arithmetic", "functions"])
def test_the_held_out_set_is_the_same_for_every_seed_and_shares_nothing_with_training(source: str) -> None:
    first, second = task.make(cfg(source), seed=0), task.make(cfg(source), seed=1)
    assert first.test == second.test
    assert first.train != second.train
    assert not questions(first.test) & (questions(first.train) | questions(second.train))
    assert len(questions(first.test)) == len(first.test)


@pytest.mark.parametrize("source", ["arithmetic", "functions"])
def test_the_same_seed_gives_the_same_questions(source: str) -> None:
    assert task.make(cfg(source), seed=3) == task.make(cfg(source), seed=3)


@pytest.mark.parametrize("source", ["arithmetic", "functions"])
def test_levels_take_turns_so_that_any_beginning_of_the_set_is_balanced(source: str) -> None:
    held_out = task.make(cfg(source, levels=[2, 3]), seed=0).test
    assert [each.meta["level"] for each in held_out[:6]] == [2, 3, 2, 3, 2, 3]


def test_a_function_of_the_user_is_a_source(mine) -> None:
    mine("def load(seed, count): return [item(f'{seed}/{i}') for i in range(count)], [item('held out')]\n")
    made = task.make(cfg("my_questions:load", count=2), seed=7)
    assert questions(made.train) == {"7/0", "7/1"}


@pytest.mark.parametrize(
    ("source", "options", "key", "words"),
    [
        ("arithmetic", {"level": 1}, "task.data.level", "levels"),
        ("arithmetic", {"levels": [5]}, "task.data.levels", "1 to 4"),
        ("arithmetic", {"levels": []}, "task.data.levels", "1 to 4"),
        ("arithmetic", {"levels": [1], "train": 99, "test": 9_999}, "task.data.test", "level 1"),
        ("arithmetic", {"train": 0}, "task.data", "training set"),
        ("functions", {"test": 0}, "task.data", "held-out set"),
        ("no_such", {}, "task.data.source", "no_such"),
        ("json:no_such", {}, "task.data.source", "no_such"),
        (None, {}, "task.data.source", "module"),
        ("hub", {}, "task.data.test", "not set"),
    ],
)
def test_bad_options_are_named(source, options, key, words) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        task.make(cfg(source, **options), seed=0)
    assert error.value.key == key


def test_a_question_on_both_sides_is_dropped_and_nothing_left_is_refused(mine, caplog) -> None:
    mine("def load(seed): return [item('same'), item('other')], [item('Same.')]\n")
    assert questions(task.make(cfg("my_questions:load"), seed=0).train) == {"other"}
    assert "1 training questions are also held out in t" in caplog.text
    mine("def load(seed): return [item('same')], [item('Same.')]\n")
    with pytest.raises(ConfigError, match="every training question of t is also held out") as error:
        task.make(cfg("my_questions:load"), seed=0, key="evaluation.tasks.t")
    assert error.value.key == "evaluation.tasks.t.data"
