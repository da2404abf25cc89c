"""Taps: see a Linear's inputs and output cotangents during a backward pass.

Autograd only keeps the sum of a weight's gradient over the batch. A tap hangs under the module's output and receives
the cotangent B [rows, T, out] beside the input X [rows, T, in] (of packed rows: [1, M, ...]), of which weight gradients
and their norms are made per row (``norms.py``). The input is kept by ``save_for_backward``, so activation checkpointing
recomputes it like any other activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Sink = Callable[[Tensor, Tensor], None]
"""Called with (X [..., in], B [..., out]) when a cotangent arrives."""


class Tap(torch.autograd.Function):
    """Identity on a module's output that hands (input, cotangent) to a sink.

    ``anchor`` is a scalar leaf under every tap: asking autograd for its gradient runs exactly the part of the backward
    pass that reaches the taps, whichever weights are frozen.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, anchor: Tensor, sink: Sink) -> Tensor:
        """Keep the input for ``backward``."""
        ctx.save_for_backward(x, anchor)
        ctx.sink = sink
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """Hand (input, cotangent) on; the anchor's gradient is 0."""
        x, anchor = ctx.saved_tensors
        ctx.sink(x, cotangent)
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


def tap(module: nn.Module, anchor: Tensor, sink: Sink) -> torch.utils.hooks.RemovableHandle:
    """Hang a tap under ``module``; it acts only where gradients are recorded."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        return Tap.apply(out, args[0], anchor, sink) if torch.is_grad_enabled() else None

    return module.register_forward_hook(hook)
