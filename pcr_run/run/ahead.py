"""The experience of each step: sampled when it is asked for, or one step ahead of the learner (``rollout.lag=1``).

With a lag, step t + 1 is sampled in a thread, from the weights before the update of step t, while the learner makes
that update. The worker must not sample from the learner's own weights then. Only the thread uses the worker until it is
done: what else wants to sample (an evaluation) asks to ``settle`` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pcr_run.data import Completion, Reward, Rollout, RolloutWorker, Score
from pcr_run.run.loop import Clock, Experience, Question, begin
from pcr_run.schema import Config


@dataclass
class Flight:
    """A step's experience, there or on its way, and the seconds for which the loop has waited for it."""

    coming: Future[Experience]
    clock: Clock

    def landed(self) -> Experience:
        """Wait for it."""
        with self.clock("waited"):
            return self.coming.result()


class Ahead:
    """Gives the experience of step after step; parameters are those of ``loop.collect``. Leaving it ends sampling."""

    def __init__(
        self,
        cfg: Config,
        questions: Sequence[Question],
        worker: RolloutWorker,
        reward: Reward,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.cfg, self.questions, self.worker, self.reward, self.decode = cfg, questions, worker, reward, decode
        self.thread = ThreadPoolExecutor(1)
        self.flights: dict[int, Flight] = {}

    def take(self, step: int) -> Experience:
        """The experience of ``step`` (the first is 1); with a lag, that of the next is begun with the present weights.

        It is kept until the next step is asked for: an interrupted run begins this one again.
        """
        if not self.cfg.rollout.lag:
            return self._begin(step)()
        self.flights.pop(step - 1, None)
        self._start(step)
        experience = self.flights[step].landed()
        if step < self.cfg.steps:
            self._start(step + 1)
        spent, waited = experience.clock.seconds, self.flights[step].clock.seconds["waited"]
        return replace(
            experience,
            clock=Clock({"sync": spent["sync"], "rollout": waited}),
            collected={**experience.collected, "perf/ahead_seconds": spent["rollout"] + spent["reward"]},
        )

    def settle(self) -> None:
        """Wait for all that is on its way."""
        for flight in self.flights.values():
            flight.landed()

    def _begin(self, step: int) -> Callable[[], Experience]:
        return begin(self.cfg, step, self.questions, self.worker, self.reward, self.decode)

    def _start(self, step: int) -> None:
        if step not in self.flights:
            self.flights[step] = Flight(self.thread.submit(self._begin(step)), Clock())

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a checkpoint after ``step`` needs: the experience of the next one, if it was begun. Waits for it.

        The weights that it was sampled with are gone by then. Plain values and tensors: ids and log-probs of all
        responses one after the other.
        """
        if step + 1 not in self.flights:
            return {}
        flight = self.flights[step + 1]
        experience = flight.landed()
        rollout, number = experience.rollout, {id(each.item): i for i, each in enumerate(self.questions)}
        tokens = [completion.token_ids for completion in rollout.completions]
        logprobs = [value for completion in rollout.completions for value in completion.logprobs]
        return {
            "step": experience.step,
            "questions": [number[id(item)] for item in rollout.items],
            "lengths": list(map(len, tokens)),
            "ids": torch.tensor([each for ids in tokens for each in ids], dtype=torch.int64),
            "logprobs": torch.tensor(logprobs, dtype=torch.float64),
            "finish": [completion.finish for completion in rollout.completions],
            "scores": [asdict(score) for score in experience.scores],
            "collected": experience.collected,
            "seconds": experience.clock.seconds,
            "waited": flight.clock.seconds,
            "sampled": experience.sampled,
            "took": experience.took,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        if not state:
            return
        asked = [self.questions[number] for number in state["questions"]]
        parts = zip(state["ids"].split(state["lengths"]), state["logprobs"].split(state["lengths"]), strict=True)
        completions = [
            Completion(tuple(ids.tolist()), tuple(logprobs.tolist()), finish)
            for (ids, logprobs), finish in zip(parts, state["finish"], strict=True)
        ]
        experience = Experience(
            step=state["step"],
            rollout=Rollout(
                items=[question.item for question in asked],
                prompt_ids=[question.prompt for question in asked],
                completions=completions,
                texts=[self.decode(completion.token_ids) for completion in completions],
                group=self.cfg.rollout.group,
            ),
            scores=[Score(**score) for score in state["scores"]],
            collected=state["collected"],
            clock=Clock(state["seconds"]),
            sampled=state["sampled"],
            took=state["took"],
        )
        there: Future[Experience] = Future()
        there.set_result(experience)
        self.flights[experience.step] = Flight(there, Clock(state["waited"]))

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        if not all(flight.coming.done() for flight in self.flights.values()):
            self.worker.close()  # else its thread would sample to the end first
        self.thread.shutdown()
