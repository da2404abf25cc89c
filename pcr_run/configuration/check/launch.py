"""What several processes can share."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.distributed.launch import local_ranks, ranks
from pcr_run.schema import Config


def processes(cfg: Config) -> int:
    """How many share the run, whoever starts them."""
    return max(cfg.launch.nproc, ranks())


def doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is allowed and does nothing."""
    if processes(cfg) > 1 and cfg.learner.compile is True:
        yield "learner.compile", "the layers of several processes, in shards, are not compiled"


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What one process has for itself."""
    count = processes(cfg)
    if count == 1:
        return
    if cfg.rollout.name == "vllm":
        yield from _engines(cfg, max(cfg.launch.nproc, local_ranks()))
    if cfg.learner.reference_device is not None:
        yield "learner.reference_device", f"the reference of {count} processes is in shards; leave it out"
    if cfg.learner.lora.r is not None:
        yield "learner.lora.r", f"an adapter is trained by one process, not {count}; right: null, or launch.nproc=1"
    if cfg.learner.optimizer != "adamw":
        problem = f"{cfg.learner.optimizer} serves one process, not {count}"
        yield "learner.optimizer", f"{problem}; right: adamw, or launch.nproc=1"
    if cfg.learner.reference not in ("initial", "old"):
        problem = f"{cfg.learner.reference} is kept by one process, not {count}"
        yield "learner.reference", f"{problem}; right: initial or old, or launch.nproc=1"
    if ":" in cfg.device:
        yield "device", f"{cfg.device} is one for {count} processes; right: auto, cpu or cuda"


def _engines(cfg: Config, here: int) -> Iterator[tuple[str, str]]:
    """GPUs for an engine of each of the processes ``here``, on one machine."""
    each = cfg.rollout.engine.get("tensor_parallel_size") or 1
    if cfg.rollout.gpus is None:
        if each > 1:
            problem = f"{each} GPUs, but the engine of each of {here} processes is on its own one"
            yield "rollout.engine.tensor_parallel_size", f"{problem}; right: 1, or rollout.gpus with {here * each} GPUs"
    elif (given := len(cfg.rollout.gpus.split(","))) != here * each:
        wanted = f"{here} processes, each with an engine on {each}, need {here * each}"
        yield "rollout.gpus", f"{given} GPUs, but {wanted}"
