"""Taps: see a Linear's inputs and output cotangents during a backward pass.

Autograd only keeps the sum of a weight's gradient over the batch. A tap hangs under the module's output and receives
the cotangent B [rows, T, out] beside the input X [rows, T, in] (of packed rows: [1, M, ...]), of which weight gradients
and their norms are made per row (``norms.py``). The input is kept by ``save_for_backward``, so activation checkpointing
recomputes it like any other activation.

A compiled layer may hold taps. Its graph serves all layers of its kind, so nothing of a single tap may be a constant of
it: the hook is one function for all, and what differs hangs at the module as tensors, which are the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Sink = Callable[[Tensor, Tensor, bool], None]
"""Called with (X [..., in], B [..., out], lent) when a cotangent arrives. A lent one must be copied to be kept: a graph
that is compiled uses its memory again."""

_SINKS: dict[int, Sink] = {}
_KEYS = count()


_SCHEMA = "(Tensor x, Tensor cotangent, Tensor key, Tensor anchor) -> Tensor"


@torch.library.custom_op("pcr_run::receive", mutates_args=(), schema=_SCHEMA)
def receive(x: Tensor, cotangent: Tensor, key: Tensor, anchor: Tensor) -> Tensor:
    """What compiled graphs call in the place of a sink; opaque to the compiler, which keeps it for its result."""
    _SINKS[int(key)](x, cotangent, True)
    return torch.zeros_like(anchor)


@receive.register_fake
def _(x: Tensor, cotangent: Tensor, key: Tensor, anchor: Tensor) -> Tensor:
    return torch.empty_like(anchor)


class Tap(torch.autograd.Function):
    """Identity on a module's output that hands (input, cotangent) to the sink of ``key``, 0-d int64 on the CPU.

    ``anchor`` is a scalar leaf under every tap: asking autograd for its gradient runs exactly the part of the backward
    pass that reaches the taps, whichever weights are frozen.
    """

    @staticmethod
    @no_type_check  # a compiler follows these three: it would follow a check of types too
    def forward(ctx: Any, out: Tensor, x: Tensor, anchor: Tensor, key: Tensor) -> Tensor:
        """Keep the input for ``backward``."""
        ctx.save_for_backward(x, anchor, key)
        return out.view_as(out)

    @staticmethod
    @no_type_check
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """Hand (input, cotangent) on; the anchor's gradient is 0."""
        x, anchor, key = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return cotangent, None, torch.ops.pcr_run.receive(x, cotangent, key, anchor), None
        _SINKS[int(key)](x, cotangent, False)
        return cotangent, None, torch.zeros_like(anchor), None


def linear_modules(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The Linear and Conv1D modules that own the named weights, by module path; shared weights are left out."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    wanted = set(names)
    found = {}
    for path, module in model.named_modules():
        # Exact types: a subclass may do more in forward than multiply (quantised, fused or LoRA-merged layers).
        if type(module) in (nn.Linear, Conv1D) and f"{path}.weight" in wanted and owners[id(module.weight)] == 1:
            found[path] = module
    return found


@torch.no_grad()
def row_preserving(
    model: nn.Module, modules: dict[str, nn.Module], run: Callable[[Tensor], Any]
) -> dict[str, nn.Module]:
    """Those modules that are called once per forward on an input [rows, T, in].

    Modules that see a reordered subset of the tokens (routed experts) or are used twice cannot be split by row. Found
    by running ``run`` on a [2, 3] batch of token ids and looking, since names do not tell.
    """
    shapes: dict[str, list[torch.Size]] = {path: [] for path in modules}

    def look(path: str) -> Callable[..., None]:
        return lambda _module, args, _out: shapes[path].append(args[0].shape)

    handles = [module.register_forward_hook(look(path)) for path, module in modules.items()]
    try:
        run(torch.zeros(2, 3, dtype=torch.long, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return {path: module for path, module in modules.items() if [s[:-1] for s in shapes[path]] == [(2, 3)]}


def tappable(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose weights among ``names`` can be split by response inside a batch."""
    return row_preserving(model, linear_modules(model, names), lambda ids: model(input_ids=ids, use_cache=False))


@contextmanager
def tap(module: nn.Module, anchor: Tensor, sink: Sink) -> Iterator[None]:
    """Hang a tap under ``module`` while entered; it acts only where gradients are recorded."""
    key = next(_KEYS)
    _SINKS[key] = sink
    module.tap_key, module.tap_anchor = torch.tensor(key), anchor
    handle = module.register_forward_hook(_hook)
    try:
        yield
    finally:
        handle.remove()
        del module.tap_key, module.tap_anchor, _SINKS[key]


@no_type_check
def _hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    if not torch.is_grad_enabled():
        return None
    x = args[0]
    if torch.compiler.is_compiling():  # one cast for the product and the taps, and half to keep
        x = x.to(out.dtype)
    return Tap.apply(out, x, module.tap_anchor, module.tap_key)
