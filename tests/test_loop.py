"""One step's rollouts and rewards, with a worker that gives out prompts one by one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import pytest

from pcr_run.data import Completion, Item, Sampling, Score
from pcr_run.errors import RunError
from pcr_run.run.loop import Question, collect
from pcr_run.run.metrics import transcripts
from pcr_run.schema import Config, RewardConfig, RolloutConfig

QUESTIONS = [Question(Item(str(i), (), str(i)), [i]) for i in range(3)]


class Slow:
    """Samples the last prompt first, and goes on only when the reward has seen what is done."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def synced(self, step: int) -> contextlib.nullcontext[dict[str, float]]:
        return contextlib.nullcontext({"mismatch/canary": 0.5})

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int
    ) -> Iterator[dict[int, list[Completion]]]:
        for index in reversed(range(len(prompts))):
            self.seen.clear()
            yield {index: [Completion((*prompts[index], g), (-1.0, -2.0), "stop") for g in range(n)]}
            assert self.seen.wait(10), "the reward did not run while sampling went on"

    def close(self) -> None:
        pass


class Echo:
    """Scores a response by what it says; one in six could not be judged."""

    def __init__(self, worker: Slow) -> None:
        self.worker = worker

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        assert all(text.startswith(item.id) for item, text in zip(items, responses, strict=True))
        self.worker.seen.set()
        return [Score(float(text.replace(" ", "")), "error" if text == "1 1" else "wrong") for text in responses]

    def close(self) -> None:
        pass


def config(max_failed: float) -> Config:
    return Config(
        seed=0,
        rollout=RolloutConfig(name="hf", prompts=3, group=2),
        reward=RewardConfig(name="verifier", max_failed=max_failed),
    )


def decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def test_rewards_run_while_the_rest_is_sampled_and_come_out_in_order() -> None:
    worker = Slow()
    found = collect(config(0.2), 1, QUESTIONS, worker, Echo(worker), decode)
    expected = [f"{item.id} {g}" for item in found.rollout.items for g in range(2)]
    assert list(found.rollout.texts) == expected
    assert [score.value for score in found.scores] == [float(text.replace(" ", "")) for text in expected]
    assert found.collected == {"mismatch/canary": 0.5}


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (3, 3), (6, 6), (100, 6)])
def test_as_many_transcripts_as_asked_for_or_as_there_are(count: int, kept: int) -> None:
    worker = Slow()
    found = collect(config(0.2), 1, QUESTIONS, worker, Echo(worker), decode)
    lines = transcripts(1, found.rollout, found.scores, count)
    assert len({line["response"] for line in lines}) == len(lines) == kept


def test_the_limit_on_failed_verdicts_counts_the_whole_step() -> None:
    """Half of one prompt's verdicts are errors, but a sixth of the step's."""
    worker = Slow()
    with pytest.raises(RunError, match=r"1 of 6 responses got the verdict 'error', more than reward\.max_failed=0\.1"):
        collect(config(0.1), 1, QUESTIONS, worker, Echo(worker), decode)
