"""The reward that the training loop calls."""

from __future__ import annotations

from collections.abc import Sequence

from pcr_run.config import RewardConfig, SandboxConfig
from pcr_run.data import Item, Score
from pcr_run.reward.isolation import candidates
from pcr_run.reward.verify import CodeReward, MathReward
from pcr_run.reward.workers import Pool


class Verified:
    """A verifier with the pool of processes that it works in."""

    def __init__(self, reward: RewardConfig, sandbox: SandboxConfig, workers: int) -> None:
        self._pool = Pool(workers)
        self._verifier: MathReward | CodeReward
        if reward.verifier == "math":
            self._verifier = MathReward(reward, self._pool)
        else:
            self._verifier = CodeReward(reward, sandbox, candidates(sandbox.isolation)[0], self._pool)

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each pair, in order."""
        return self._verifier(items, responses)

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()
