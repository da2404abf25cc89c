"""What several processes can share."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.distributed.launch import local_ranks, ranks
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
        if cfg.launch.offload:
            yield "rollout.name", "vllm takes weights from the learner's GPU, not with launch.offload; right: hf"
        else:
            yield from _engines(cfg, max(cfg.launch.nproc, local_ranks()))
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
