"""(item, response) pairs in; values, verdicts and seconds out. May import nothing."""

from __future__ import annotations

import os

from pcr_run.data import Reward
from pcr_run.errors import ConfigError
from pcr_run.reward import answer
from pcr_run.reward.combined import Combined, stop_on_failures
from pcr_run.reward.model import RewardModel, check_local
from pcr_run.reward.overlong import shortened
from pcr_run.reward.references import check_references, gradable
from pcr_run.reward.sandbox.probe import isolation
from pcr_run.reward.verify import CodeReward, MathReward, check_math
from pcr_run.reward.workers import Pool
from pcr_run.schema import RewardConfig, SandboxConfig

__all__ = ["check", "check_references", "gradable", "make", "shortened", "stop_on_failures"]

NAMES = ("verifier", "model")
VERIFIERS = ("math", "sandbox")


def check(reward: RewardConfig, sandbox: SandboxConfig) -> None:
    """Raise ConfigError for settings that cannot work on this machine, RunError where no worker process can start.

    Starts a worker and a sandbox, loads no model.
    """
    if reward.name not in NAMES:
        raise ConfigError("reward.name", f"unknown reward {reward.name!r}; choose {' or '.join(NAMES)}")
    if reward.verifier not in VERIFIERS:
        raise ConfigError("reward.verifier", f"unknown verifier {reward.verifier!r}; choose {' or '.join(VERIFIERS)}")
    if reward.name == "model":
        if reward.path is None:
            raise ConfigError("reward.path", "reward.name=model needs the directory or hub id of a sequence classifier")
        check_local(reward.path)
    if reward.verifier == "sandbox":
        isolation(sandbox)
    else:
        check_math()


def make(
    reward: RewardConfig, sandbox: SandboxConfig, device: str = "cpu", thinking: tuple[str, str] = answer.THINK
) -> Reward:
    """The reward that a configuration describes. Close it to end its worker processes.

    ``thinking``: tags around what a response thinks, which is not judged.
    """
    check(reward, sandbox)
    model = RewardModel(reward, device) if reward.name == "model" else None
    pool = Pool(reward.workers or os.cpu_count() or 1)
    verifier: MathReward | CodeReward
    if reward.verifier == "math":
        verifier = MathReward(reward, pool)
    else:
        verifier = CodeReward(reward, sandbox, isolation(sandbox), pool)
    return Combined(reward, verifier, model, pool, thinking)
