"""The learner's weights as an engine loads them: by name and in the layout of a checkpoint, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from pcr_run.distributed.launch import local_rank
from pcr_run.distributed.ranks import everyones
from pcr_run.distributed.shards import entire
from pcr_run.distributed.whole import Weights
from pcr_run.model import lora


class Source:
    """Weights that are whole only while they are handed on (vLLM's ``WeightSource``); tied ones once.

    ``merged``: an adapter's change is in them, else they are those of the base model. Where ranks share the weights, a
    block is gathered when it is asked for: every rank must go through all of them.
    """

    def __init__(self, weights: Weights, merged: bool = True) -> None:
        self.weights, self.merged = weights, merged
        self.model: Any = weights.model
        kept = self.model.state_dict()
        self.buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in kept}

    @property
    def bytes(self) -> int:
        """Of all weights together."""
        return sum(p.numel() * p.element_size() for part in self.weights.parts() for p in part.values())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max(p.numel() * p.element_size() for part in self.weights.parts() for p in part.values())

    def blocks(self) -> Iterator[Iterator[tuple[str, Tensor]]]:
        """The names and weights of one block after the other."""
        return map(self._handed, self._blocks(lambda parameter: entire(parameter.detach())))

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """The same names in the same order with empty tensors (``meta``); nothing is gathered."""
        blocks = self._blocks(lambda p: torch.empty(p.shape, dtype=p.dtype, device="meta"))
        return chain.from_iterable(self._base(block).items() for block in blocks)

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of each, as vLLM wants them."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, empty.dtype, tuple(empty.shape)) for name, empty in self.shapes()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return chain.from_iterable(self.blocks())

    def describe(self, directory: Path) -> None:
        """Write what a model's directory holds beside its weights."""
        if local_rank() == 0:
            lora.save_merged(self.model, directory, state_dict={})

    def save(self, directory: Path) -> None:
        """Write the weights, a safetensors file a block; the first rank of a machine writes for all of its ranks."""
        for number, block in enumerate(self.blocks()):
            if local_rank() == 0:
                found = {name: weight.cpu().contiguous() for name, weight in block}
                save_file(found, directory / f"model-{number:05d}.safetensors", {"format": "pt"})
        everyones(None)  # all is written

    def adapter(self) -> dict[str, Tensor]:
        """What is trained of a model with an adapter: A and B, whole, under the model's names for them."""
        return {name: entire(p.detach()) for name, p in self.weights.parameters.items() if p.requires_grad}

    def _handed(self, block: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        base = self._base(block)
        return lora.merged(self.model, base, block) if self.merged else iter(base.items())

    def _base(self, block: dict[str, Tensor]) -> dict[str, Tensor]:
        return revert_weight_conversion(self.model, lora.base(self.model, block))

    def _blocks(self, made: Callable[[nn.Parameter], Tensor]) -> Iterator[dict[str, Tensor]]:
        """``made`` of every parameter; buffers, which are whole everywhere, come with the first block."""
        found: dict[str, Tensor] = dict(self.buffers)
        for part in self.weights.parts():
            found |= {name: made(parameter) for name, parameter in part.items()}
            yield found
            found = {}  # let go of the block before the next one is gathered
