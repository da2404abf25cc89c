"""Dynamic sampling and the soft punishment of long responses."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_check import config

from pcr_run.data import Completion, Item, Sampling, Score
from pcr_run.reward import shortened
from pcr_run.run.loop import Experience, Question, collect
from pcr_run.run.run import run
from pcr_run.schema import Config, RewardConfig, RolloutConfig

QUESTIONS = [Question(Item(str(i), (), str(i)), [i]) for i in range(12)]
P, G = 4, 2


class Worker:
    """Answers with the prompt and the number of the response; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.seeds: list[int] = []

    def synced(self, step: int) -> contextlib.nullcontext[dict[str, float]]:
        return contextlib.nullcontext({})

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int
    ) -> Iterator[dict[int, list[Completion]]]:
        self.asked.append([prompt[0] for prompt in prompts])
        self.seeds.append(seed)
        yield {
            p: [Completion((prompt[0], g), (-1.0, -1.0), "stop") for g in range(n)] for p, prompt in enumerate(prompts)
        }

    def close(self) -> None:
        pass


class Useful:
    """Tells the responses of some questions apart, and those of no other."""

    def __init__(self, questions: set[int]) -> None:
        self.questions = questions

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        values = [
            int(int(item.id) in self.questions and text.endswith("1"))
            for item, text in zip(items, responses, strict=True)
        ]
        return [Score(float(value), "correct" if value else "wrong") for value in values]

    def close(self) -> None:
        pass


def sampled(useful: set[int], step: int = 1, rounds: int = 3, dynamic: bool = True) -> tuple[Experience, Worker]:
    cfg = Config(
        seed=0,
        rollout=RolloutConfig(name="hf", prompts=P, group=G, dynamic=dynamic, max_rounds=rounds),
        reward=RewardConfig(name="verifier"),
    )
    worker = Worker()
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    return collect(cfg, step, QUESTIONS, worker, Useful(useful), decode), worker


def ids(experience: Experience) -> list[int]:
    return [int(item.id) for item in experience.rollout.items]


def test_groups_without_signal_are_replaced_until_every_slot_has_one() -> None:
    plain = ids(sampled(set(), dynamic=False)[0])
    good = set(range(12)) - set(plain[:2])
    found, worker = sampled(good)
    assert worker.asked[0] == plain
    assert ids(found)[2:] == plain[2:]
    assert set(ids(found)) <= good
    assert ids(found)[:2] == worker.asked[1]
    assert [score.value for score in found.scores] == [0.0, 1.0] * P
    assert found.collected == {
        "dynamic/rounds": 2,
        "dynamic/replaced": 2,
        "dynamic/dropped": 2,
        "dynamic/pass_rate": 2 / 8,
    }
    assert found.sampled == 2 * G * (P + 2)
    for item, text in zip([i for i in ids(found) for _ in range(G)], found.rollout.texts, strict=True):
        assert text.startswith(f"{item} ")
    assert len(set(worker.seeds)) == 2


def test_rounds_end_and_what_is_left_keeps_its_own_group() -> None:
    found, worker = sampled(set(), rounds=2)
    assert ids(found) == worker.asked[0]
    assert found.collected["dynamic/rounds"] == 2
    assert found.collected["dynamic/dropped"] == P


def test_no_question_is_asked_twice_in_a_step_and_few_questions_end_it() -> None:
    _, worker = sampled(set(), rounds=50)
    asked = [question for each in worker.asked for question in each]
    assert sorted(asked) == list(range(12))


def test_with_signal_everywhere_it_is_the_plain_step() -> None:
    plain, dynamic = (sampled(set(range(12)), dynamic=on) for on in (False, True))
    assert plain[0].rollout == dynamic[0].rollout
    assert plain[1].seeds == dynamic[1].seeds


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_step_draws_the_same_whatever_came_before(step: int) -> None:
    assert sampled({1, 2, 3}, step)[0].rollout == sampled({1, 2, 3}, step)[0].rollout
    assert sampled({1, 2, 3}, step)[1].asked[0] == ids(sampled(set(), step, dynamic=False)[0])


def test_the_punishment_is_linear_in_the_window() -> None:
    lengths = [3, 6, 7, 8, 10]
    completions = [Completion((0,) * n, (0.0,) * n, "stop") for n in lengths]
    scores = [Score(1.0, "correct", parts={"correctness": 1.0})] * len(lengths)
    found = shortened(scores, completions, 4, 10)
    assert [score.value for score in found] == pytest.approx([1, 1, 0.75, 0.5, 0])
    assert [score.parts["overlong"] for score in found] == pytest.approx([0, 0, -0.25, -0.5, -1])
    assert {score.verdict for score in found} == {"correct"}
    assert shortened(scores, completions, 0, 10) == scores


def records(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for name in ("metrics", "rollouts") for line in (directory / f"{name}.jsonl").open()]
    return [{key: v for key, v in line.items() if not key.startswith(("time/", "perf/"))} for line in lines]


def test_a_run_goes_on_bit_for_bit(untrained: Path, tmp_path: Path) -> None:
    """Nothing is right here: a group has a signal where some of its responses end before the limit."""
    options = ("evaluation=none", "tracker=none", "resolver=none", f"model.path={untrained}", "steps=3")
    sampling = ("rollout.dynamic=true", "rollout.prompts=4", "rollout.group=4", "rollout.max_new_tokens=24")
    learning = ("reward.overlong=24", "learner.lr=1e-2", "checkpoint.every=1", "checkpoint.keep=3")
    cfg = config(*options, *sampling, *learning)
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    run(cfg, whole)
    shutil.copytree(whole, again)  # as it was after its first step
    for step in (2, 3):
        shutil.rmtree(again / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(again / "final")
    (again / "result.json").unlink()
    assert run(cfg, again)["resumed_from"] == [1]
    assert records(whole) == records(again)
    ours, theirs = (load_file(directory / "final" / "model.safetensors") for directory in (whole, again))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    assert sum(line.get("dynamic/replaced", 0) for line in records(whole) if line["step"] > 1) > 0
    base = load_file(untrained / "model.safetensors")
    assert any(not torch.equal(base[name], weight) for name, weight in ours.items())
