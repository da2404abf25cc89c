"""Ways to bring the learner's weights to the engine. Each has the engine's side in vLLM, and one method here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pcr_run.distributed.launch import local_rank
from pcr_run.distributed.ranks import everyones
from pcr_run.errors import ConfigError
from pcr_run.rollout.engine import Engine
from pcr_run.rollout.source import Source
from pcr_run.schema import RolloutConfig


class Transfer(Protocol):
    """Brings weights to one engine."""

    def send(self) -> None:
        """The engine's weights become the learner's; where ranks share these, all must call."""


def backend(rollout: RolloutConfig, device: str) -> str:
    """``rollout.transfer``, where ``auto`` is the fastest way; ConfigError for one that the devices do not have."""
    if device != "cuda" and rollout.gpus is not None:
        raise ConfigError(
            "rollout.gpus", f"{rollout.gpus}, but the learner is on {device}; leave it out, or set device"
        )
    fastest = "files" if device != "cuda" else "ipc" if rollout.gpus is None else "nccl"
    if rollout.transfer not in ("auto", "files", fastest):
        where = f"learner on {device}, " + (f"vLLM on GPUs {rollout.gpus}" if rollout.gpus else "vLLM on the same")
        raise ConfigError(
            "rollout.transfer", f"{rollout.transfer} does not work here ({where}); right: {fastest} or files"
        )
    return fastest if rollout.transfer == "auto" else rollout.transfer


class Files:
    """Through safetensors files in shared memory; works for any device and any number of worker processes."""

    def __init__(self, source: Source, engine: Engine, directory: Path) -> None:
        self.source, self.engine, self.directory = source, engine, directory

    def send(self) -> None:
        """Write all weights, have them read."""
        self.source.save(self.directory)
        self.engine.ask("load", str(self.directory))


class Adapter:
    """The adapter alone, in peft's files; the engine keeps the base model's weights, which are never trained."""

    def __init__(self, source: Source, engine: Engine, directory: Path) -> None:
        self.source, self.engine, self.directory = source, engine, directory / "adapter"
        self.number = 0

    def send(self) -> None:
        """Each time an adapter by a new number: what an old one computed is never taken for what this one would.

        The first rank of a machine writes it for all engines there.
        """
        self.number += 1
        found = self.source.adapter()
        if local_rank() == 0:
            self.source.model.save_pretrained(self.directory, state_dict=found)
        everyones(None)  # it is written
        self.engine.ask("adapt", str(self.directory), self.number)


class Native:
    """vLLM's own weight transfer between GPUs: ``ipc`` on the same one, ``nccl`` to others.

    Every rank is the sender (rank 0, in vLLM's words) of an engine of its own; they go through the source in step.
    """

    def __init__(self, source: Source, engine: Engine, how: str, workers: int) -> None:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES
        from vllm.utils.network_utils import get_open_port

        if how == "nccl":
            info: Any = NCCLTrainerInitInfo(
                rank=0, master_address="127.0.0.1", master_port=get_open_port(), world_size=workers + 1
            )
        else:  # a tensor larger than the buffer is refused, as large embeddings would be
            room = max(DEFAULT_PACKED_BUFFER_SIZE_BYTES, source.largest)
            info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=room)
        self.trainer = WeightTransferTrainerFactory.trainer_init(info, client=Client(engine), source=source)

    def send(self) -> None:
        """Start, send all tensors, finish."""
        self.trainer.send_weights()


class Client:
    """What vLLM's trainer side wants of an engine: four calls, forwarded."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Agree on how to send."""
        self.engine.ask("call", "init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Weights are coming."""
        self.engine.ask("call", "start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Receive them."""
        self.engine.ask("call", "update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """All have come."""
        self.engine.ask("call", "finish_weight_update")
