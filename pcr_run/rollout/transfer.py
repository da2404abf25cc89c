"""Ways to bring the learner's weights to the engine. Each has the engine's side in vLLM, and one method here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from pcr_run.model import lora
from pcr_run.rollout.engine import Engine


class Transfer(Protocol):
    """Brings weights to one engine."""

    def send(self) -> None:
        """The engine's weights become the learner's."""


class Files:
    """Through safetensors files in shared memory; works for any device and any number of worker processes."""

    def __init__(self, model: PreTrainedModel, engine: Engine, directory: Path) -> None:
        self.model, self.engine, self.directory = model, engine, directory

    def send(self) -> None:
        """Write all weights, have them read."""
        lora.save_merged(self.model, self.directory)
        self.engine.ask("load", str(self.directory))


class Native:
    """vLLM's own weight transfer between GPUs: ``ipc`` on the same one, ``nccl`` to others."""

    def __init__(self, model: PreTrainedModel, engine: Engine, backend: str, workers: int) -> None:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_open_port

        info: Any = IPCTrainerInitInfo(rank=0, packed=True)
        if backend == "nccl":
            info = NCCLTrainerInitInfo(
                rank=0, master_address="127.0.0.1", master_port=get_open_port(), world_size=workers + 1
            )
        self.trainer = WeightTransferTrainerFactory.trainer_init(info, client=Client(engine), source=Checkpoint(model))

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


class Checkpoint:
    """The model's weights by name and in the layout of a checkpoint, as vLLM loads them (its ``WeightSource``)."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def tensors(self) -> dict[str, Tensor]:
        """By name, without an adapter; tied ones once."""
        unique = lora.base(self.model, {name: p.detach() for name, p in self.model.named_parameters()})
        return revert_weight_conversion(self.model, unique)

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of each."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors().items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return lora.merged(self.model, self.tensors())
