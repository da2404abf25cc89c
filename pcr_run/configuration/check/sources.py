"""Where model, questions and rewards come from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from pcr_run.configuration.check.values import CHOICES, RANGES
from pcr_run.configuration.compose import no_such
from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is not set, not found, or does not fit together."""
    if cfg.model.path is None and cfg.model.builtin is None:
        yield "model.path", "neither model.path nor model.builtin is set; set one of them"
    if cfg.reward.name == "model" and cfg.reward.path is None:
        yield "reward.path", "reward.name=model needs one: the directory or hub id of a sequence classifier"
    measured = {f"evaluation.tasks.{name}": task for name, task in cfg.evaluation.tasks.items()}
    for key, task in {"task": cfg.task, **measured}.items():
        if task.verifier not in CHOICES["task.verifier"]:
            yield f"{key}.verifier", no_such(task.verifier, list(CHOICES["task.verifier"]))
        if task.n is not None and not RANGES["task.n"].holds(task.n):
            yield f"{key}.n", f"{task.n} is out of range; right is {RANGES['task.n'].text}"
        source = str(task.data.get("source") or "")
        if not findable(source.partition(":")[0] if ":" in source else f"pcr_run.task.{source}"):
            yield f"{key}.data.source", f"{source!r} is not found; name a module of pcr_run.task or module:function"
    if cfg.reward.verifier != cfg.task.verifier:
        gives = "answers, not tests" if cfg.task.verifier == "math" else "tests, not answers"
        problem = f"{cfg.reward.verifier}, but task {cfg.task.name} gives {gives}; right: {cfg.task.verifier}"
        yield "reward.verifier", problem
    weights = (cfg.reward.correctness, cfg.reward.format, cfg.reward.model if cfg.reward.name == "model" else 0)
    if not any(weights):
        yield "reward.correctness", "all weights of the reward are 0, so there is nothing to learn; right: above 0"
    if cfg.sandbox.wall_seconds < cfg.sandbox.seconds:
        yield "sandbox.wall_seconds", f"below sandbox.seconds={cfg.sandbox.seconds:g}, which it backs up; set it higher"


def findable(module: str) -> bool:
    """Whether a module can be imported; its parents are, it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
