"""Taps: see a Linear's inputs and output cotangents during a backward pass, and make its weight gradient from them.

Autograd only keeps the sum of a weight's gradient over the batch. A tap hangs under the module's output, receives the
cotangent B [rows, T, out] beside the input X [rows, T, in], and forms B^T X per row or per group of rows, which costs
the same multiplications as their sum. The input is kept by ``save_for_backward``, so activation checkpointing
recomputes it like any other activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Sink = Callable[[Tensor, Tensor], None]
"""Called with (X [rows, T, in], B [rows, T, out]) when a cotangent arrives."""


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


def tap(module: nn.Module, anchor: Tensor, sink: Sink) -> torch.utils.hooks.RemovableHandle:
    """Hang a tap under ``module``; it acts only where gradients are recorded."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        return Tap.apply(out, args[0], anchor, sink) if torch.is_grad_enabled() else None

    return module.register_forward_hook(hook)


def weight_gradient(x: Tensor, b: Tensor, transposed: bool) -> Tensor:
    """B^T X summed over rows and positions, in the weight's layout ([out, in]; [in, out] when ``transposed``)."""
    return weight_gradients(x.flatten(0, 1), b.flatten(0, 1), transposed)


def weight_gradients(x: Tensor, b: Tensor, transposed: bool) -> Tensor:
    """B^T X of each row by itself [rows, *weight]."""
    return x.mT @ b if transposed else b.mT @ x


def token_gram(x: Tensor) -> Tensor:
    """Inner products of each row's positions [rows, T, T]."""
    return x @ x.mT


def row_squares(x_gram: Tensor, b: Tensor) -> Tensor:
    """||B_i^T X_i||^2 of each row i [rows] without forming the products: sum_st (x_s . x_t)(b_s . b_t).

    ``x_gram``: ``token_gram`` of the inputs, which both objectives share. The 'ghost norm' (Goodfellow 2015; Li et al.
    2022): T^2 (in + out) multiplications a row.
    """
    return (x_gram * token_gram(b)).sum((1, 2))


def ghost_is_cheaper(x: Tensor, b: Tensor) -> bool:
    """Short rows: Grams of tokens cost less than writing and reading a weight-sized product per row."""
    tokens, fan_in, fan_out = x.shape[1], x.shape[2], b.shape[2]
    return tokens**2 * (fan_in + fan_out) < 40 * fan_in * fan_out  # 40: about ten operations per byte of traffic


def products_at_once(x: Tensor, b: Tensor) -> int:
    """Rows whose weight-sized products are formed together: on a CPU one, which stays in its cache.

    On a GPU as many as have 2**25 entries (128 MiB in float32), since many small kernels cost most there.
    """
    return max(1, 2**25 // (x.shape[2] * b.shape[2])) if x.is_cuda else 1


def chunks(rows: int, size: int) -> Iterable[slice]:
    """Consecutive slices of ``size`` rows."""
    return (slice(start, start + size) for start in range(0, rows, size))
