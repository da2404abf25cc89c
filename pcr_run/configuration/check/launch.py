"""What several processes can share."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.distributed.launch import ranks
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
        yield "rollout.name", f"vllm serves one process, not {count}; right: hf, or launch.nproc=1"
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
