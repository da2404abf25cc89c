"""(item, response) pairs in; values, verdicts and seconds out. May import nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pcr_run.data import CodeTests, Item, Reward
from pcr_run.errors import ConfigError
from pcr_run.reward import answer
from pcr_run.reward.combined import Combined, stop_on_failures
from pcr_run.reward.model import RewardModel, check_local
from pcr_run.reward.sandbox.probe import isolation
from pcr_run.reward.verify import CodeReward, MathReward, check_math, is_simple
from pcr_run.reward.workers import Pool
from pcr_run.schema import RewardConfig, SandboxConfig

__all__ = ["check", "check_references", "make", "stop_on_failures"]

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


def check_references(items: Sequence[Item], key: str = "task.data") -> None:
    """Raise ConfigError, by item, for a gold answer that states no value or tests that cannot run.

    Such a row would be scored 0 for ever. Call it when a data set loads; plain numbers cost microseconds.
    """
    hard = []
    for item in items:
        reference = item.reference
        if isinstance(reference, CodeTests):
            if problem := _bad_tests(reference):
                raise ConfigError(key, f"item {item.id}: {problem}")
        elif not is_simple(reference):
            hard.append(item)
    pool = Pool(os.cpu_count() or 1)
    jobs = [{"kind": "gold", "gold": item.reference, "seconds": 5.0} for item in hard]
    try:
        for item, reply in zip(hard, pool.map(jobs, 60.0), strict=True):
            if not (reply and reply["parses"]):
                raise ConfigError(key, f"item {item.id}: the gold answer {item.reference!r} states no value")
    finally:
        pool.close()


def _bad_tests(tests: CodeTests) -> str | None:
    """What is wrong with the tests of a program."""
    if tests.entry_point is None:
        return None if tests.stdio else "a program without (input, output) pairs"
    if not tests.entry_point.isidentifier():
        return f"the entry point {tests.entry_point!r} is no name of a function"
    if not tests.tests:
        return "a function without tests"
    for source in (tests.setup, *tests.tests):
        try:
            compile(source, "<tests>", "exec")
        except (SyntaxError, ValueError) as problem:
            return f"a test that does not compile: {problem}"
    return None
