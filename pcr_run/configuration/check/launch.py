"""What several processes can share."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.distributed.launch import ranks
from pcr_run.schema import Config


def processes(cfg: Config) -> int:
    """How many share the run, whoever starts them."""
    return max(cfg.launch.nproc, ranks())


def in_shards(cfg: Config) -> bool:
    """Whether FSDP2 holds the model."""
    return processes(cfg) > 1 or cfg.launch.offload


def doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is allowed and does nothing."""
    if in_shards(cfg) and cfg.learner.compile is True:
        yield "learner.compile", "layers in shards are not compiled"
    if cfg.launch.offload and cfg.device == "cpu":
        yield "launch.offload", "with device=cpu all is in CPU memory already"


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What a model in one piece has for itself."""
    if not in_shards(cfg):
        return
    count = processes(cfg)
    if cfg.rollout.name == "vllm":
        problem = f"not {count}" if count > 1 else "whose weights are on its GPU: not with launch.offload"
        yield (
            "rollout.name",
            f"vllm serves one process, {problem}; right: hf, or launch.nproc=1 without launch.offload",
        )
    if cfg.learner.optimizer == "adamw8bit":
        problem = "blocks of its moments end where a shard ends, so checkpoints could not give them back bit for bit"
        yield "learner.optimizer", f"adamw8bit: {problem}; right with shards: adamw or sgd"
    if cfg.learner.reference_device is not None:
        yield (
            "learner.reference_device",
            "the reference is in shards, as the policy is: launch.offload moves both; right: null",
        )
    if ":" in cfg.device:
        yield "device", f"{cfg.device} is one for {count} processes; right: auto, cpu or cuda"
