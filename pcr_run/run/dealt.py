"""Sampling and scoring dealt over the ranks: each does a part, all get the whole, in the order of one process.

What is measured without samples is not dealt: every rank finds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from pcr_run.data import Completion, Item, Reward, RolloutWorker, Sampling, Score
from pcr_run.distributed.ranks import everyones, rank, size, together
from pcr_run.evaluation import Piece

Here = Callable[[], AbstractContextManager[None]]
"""A context in which the rank has all weights, so that no rank waits for another."""


class DealtWorker:
    """Every rank samples for some of the prompts, with the seeds that they have in one process.

    ``here`` is entered while it samples.
    """

    def __init__(self, worker: RolloutWorker, here: Here) -> None:
        self.worker, self.here = worker, here

    @contextmanager
    def synced(self, step: int) -> Iterator[dict[str, float]]:
        """See ``RolloutWorker``."""
        with self.here(), self.worker.synced(step) as transfer:
            yield transfer

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """All completions in one part, once every rank is done."""
        numbers = range(len(prompts)) if numbers is None else numbers
        mine = range(rank(), len(prompts), size())
        found: dict[int, list[Completion]] = {}
        if mine:
            own = [prompts[i] for i in mine]
            for part in self.worker.generate(own, n, sampling, seed, [numbers[i] for i in mine]):
                found |= {mine[i]: completions for i, completions in part.items()}
        yield dict(sorted((i, completions) for part in everyones(found) for i, completions in part.items()))

    def close(self) -> None:
        """See ``RolloutWorker``."""
        self.worker.close()


class DealtReward:
    """Every rank scores some of the responses."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """See ``Reward``."""
        mine = slice(rank(), None, size())
        parts = everyones(self.reward(items[mine], responses[mine]) if rank() < len(items) else [])
        return [parts[i % size()][i // size()] for i in range(len(items))]

    def close(self) -> None:
        """See ``Reward``."""
        self.reward.close()


def on_all(pieces: Sequence[Piece], here: Here) -> list[Piece]:
    """The pieces, where ranks share the run with those that are not sampled measured inside ``here``."""

    def whole(piece: Piece) -> Piece:
        def measure(worker: RolloutWorker | None) -> Any:
            with here():
                return piece.measure(worker)

        return replace(piece, measure=measure)

    return [whole(piece) if together() and not piece.sampled else piece for piece in pieces]
