"""Rewards: (item, response) pairs in; values, verdicts and seconds out."""

from __future__ import annotations

import os

from pcr_run.config import RewardConfig, SandboxConfig
from pcr_run.data import Reward
from pcr_run.errors import ConfigError

NAMES = ("verifier", "model")
VERIFIERS = ("math", "sandbox")


def check(reward: RewardConfig, sandbox: SandboxConfig) -> None:
    """Raise ConfigError for settings that cannot work here, before any model loads."""
    if reward.name not in NAMES:
        raise ConfigError("reward.name", f"unknown reward {reward.name!r}; choose one of {', '.join(NAMES)}")
    if reward.verifier not in VERIFIERS:
        raise ConfigError(
            "reward.verifier", f"unknown verifier {reward.verifier!r}; choose one of {', '.join(VERIFIERS)}"
        )


def make(reward: RewardConfig, sandbox: SandboxConfig, device: str = "cpu") -> Reward:
    """The reward that a configuration describes. Close it to end its worker processes."""
    from pcr_run.reward.verified import Verified

    check(reward, sandbox)
    return Verified(reward, sandbox, reward.workers or os.cpu_count() or 1)
