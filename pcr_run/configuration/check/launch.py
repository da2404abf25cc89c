"""What several processes can share."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.distributed.launch import ranks
from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What one process has for itself."""
    count = max(cfg.launch.nproc, ranks())
    if count == 1:
        return
    if cfg.rollout.name == "vllm":
        yield "rollout.name", f"vllm serves one process, not {count}; right: hf, or launch.nproc=1"
    if cfg.learner.reference_device is not None:
        yield "learner.reference_device", f"the reference of {count} processes is in shards; leave it out"
    if ":" in cfg.device:
        yield "device", f"{cfg.device} is one for {count} processes; right: auto, cpu or cuda"
