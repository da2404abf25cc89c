"""A model in shards (FSDP2): weights are whole on a rank only while a block computes, gradients only until it is done.

``fully_shard`` keeps the shards, gathers them and frees what it gathered. Its own hooks on the backward pass are taken
off: they know one gradient per parameter and one backward pass, here are two of each, measured before they are summed
over the ranks. So the only way from a gradient to an optimizer is through ``Shards``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from pcr_run.distributed.ranks import size, total

Leave = Callable[[str, nn.Parameter], bool]
"""Takes a parameter's gradient away when its block is done; False: it did not, the plain gradient is in ``.grad``."""


class Shards:
    """Shards ``model`` over all ranks, each of its ``blocks`` by itself and the rest together, along the first axis.

    ``dtype``: what blocks are gathered in (None: their own); the rest, embeddings, final norm and head, keeps its own.
    ``offload``: shards, of gradients too, stay in CPU memory, and only what is gathered is on the model's device. Every
    rank must call the methods in the same order: all of them communicate.
    """

    spread = True

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], dtype: torch.dtype | None = None, offload: bool = False
    ) -> None:
        self.model, self.blocks = model, list(blocks)
        self.device = next(model.parameters()).device
        self.mesh = init_device_mesh(self.device.type, (size(),))
        where = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if offload else OffloadPolicy()
        for block in self.blocks:
            precision = MixedPrecisionPolicy(param_dtype=dtype)
            fully_shard(block, mesh=self.mesh, mp_policy=precision, offload_policy=where)
        fully_shard(model, mesh=self.mesh, offload_policy=where)
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        inside = {id(p): block for block in self.blocks for p in block.parameters()}
        self._names: dict[nn.Module, list[str]] = {part: [] for part in (*self.blocks, model)}
        for name, parameter in self.parameters.items():
            self._names[inside.get(id(parameter), model)].append(name)
        self.loose: Collection[str] = frozenset(self._names[model])
        """Names of what belongs to no block."""
        self._apart: Collection[str] = ()
        self._plain: dict[str, Tensor] = {}
        self._made: set[str] = set()
        self._held = 0
        for part in self._names:
            state = fully_shard.state(part)  # type: ignore[attr-defined]
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
        for block in self.blocks:
            block.register_forward_pre_hook(lambda block, _: self._gather(block))
            block.register_forward_hook(lambda block, _, __: None if self._held else self._free(block))

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Inside, what belongs to no block is whole, and each block while it runs."""
        self._gather(self.model)
        try:
            yield
        finally:
            self._free(self.model)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the whole model is on every rank, and none waits for another."""
        with self.rest(), self._hold(self.blocks):
            yield

    def parts(self) -> Iterator[dict[str, nn.Parameter]]:
        """Parameters by name as they are kept, those of a block at a time; of these ``entire`` makes whole ones."""
        for names in self._names.values():
            yield {name: self.parameters[name] for name in names}

    @contextmanager
    def update(self, apart: Collection[str], leave: Leave) -> Iterator[None]:
        """Inside, gradients are made: ``rest``, and afterwards plain gradients are the shards' ``.grad``.

        ``apart``: parameters without a gradient from autograd. ``leave`` is asked for every parameter, block by block.
        """
        self._apart, self._leave, self._plain, self._made = apart, leave, {}, set()
        with self.rest():
            yield
            self._done([self.model])
        made = total(torch.tensor([float(name in self._made) for name in self._plain], dtype=torch.float64))
        for (name, shard), anywhere in zip(self._plain.items(), made.tolist(), strict=True):
            if anywhere:  # as in one process, a parameter that no loss depends on has no gradient
                self.give(name, shard)

    @contextmanager
    def down(self, blocks: Sequence[nn.Module] | None) -> Iterator[None]:
        """Inside, a backward pass goes through ``blocks`` (None: all); then their gradients are summed over ranks."""
        blocks = self.blocks if blocks is None else blocks
        with self._hold(blocks):
            yield
            self._done(blocks)

    def scatter(self, name: str, gradient: Tensor) -> Tensor:
        """This rank's shard of the sum over the ranks of a whole gradient, where the parameter's shard is."""
        gradient = gradient.to(self.device)
        rows = -(-len(gradient) // size())  # of a shard, the last ones may have fewer or none
        if short := rows * size() - len(gradient):
            gradient = torch.cat([gradient, gradient.new_zeros(short, *gradient.shape[1:])])
        shard = gradient.new_empty(rows, *gradient.shape[1:])
        dist.reduce_scatter_single(shard, gradient.contiguous())
        return shard[: len(local(self.parameters[name]))].to(self.parameters[name].device)

    def give(self, name: str, shard: Tensor) -> None:
        """Make ``shard`` the parameter's gradient."""
        parameter = self.parameters[name]
        parameter.grad = part_of(shard.to(parameter.dtype), like=parameter)

    def now(self, name: str) -> nn.Parameter:
        """The parameter as its module has it now: whole, or a shard."""
        return self.model.get_parameter(name)

    def over_ranks(self, sums: Tensor) -> Tensor:
        """The sum over the ranks."""
        return total(sums)

    @contextmanager
    def _hold(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        with ExitStack() as stack:
            for block in blocks:
                self._gather(block)
                stack.callback(self._free, block)
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def _gather(self, part: nn.Module) -> None:
        assert isinstance(part, FSDPModule)
        part.unshard()
        for name in self._names[part]:
            self.now(name).requires_grad_(self.parameters[name].requires_grad and name not in self._apart)

    def _free(self, part: nn.Module) -> None:
        assert isinstance(part, FSDPModule)
        part.reshard()

    def _done(self, parts: Sequence[nn.Module]) -> None:
        for part in parts:
            for name in self._names[part]:
                parameter = self.now(name)
                if not self._leave(name, parameter) and parameter.requires_grad:
                    self._add(name, parameter)

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        """A rank without a gradient takes part with zeros."""
        gradient, parameter.grad = parameter.grad, None
        wide = torch.promote_types(self.parameters[name].dtype, parameter.dtype)
        if gradient is None:
            gradient = torch.zeros_like(parameter, requires_grad=False)
        else:
            self._made.add(name)
        shard = self.scatter(name, gradient.to(wide))
        self._plain[name] = self._plain[name].add_(shard) if name in self._plain else shard


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; all of it where it is not in shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(shard: Tensor, like: Any) -> DTensor:
    """A tensor in shards as ``like`` is, where it is, of which this rank has ``shard``."""
    whole: Any = torch.empty_like(like, dtype=shard.dtype, requires_grad=False)
    whole.to_local().copy_(shard)  # ``from_local`` would move it to the mesh's device, and back
    return whole


def entire(tensor: Tensor) -> Tensor:
    """The whole of a tensor, from all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def offset(tensor: Tensor) -> int:
    """Where this rank's part begins in the flattened tensor."""
    if not isinstance(tensor, DTensor):
        return 0
    place = tensor.placements[0]
    assert isinstance(place, Shard)
    rows = -(-len(tensor) // tensor.device_mesh.size()) * tensor.device_mesh.get_local_rank()
    return min(rows, len(tensor)) * (tensor.numel() // max(len(tensor), 1))
