"""Weights in the dtype of the products they go into, cast once: autocast does so in every product, to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def store(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen model's Linear layers in ``dtype``, untied from embeddings; all others stay."""
    for module in _multiplying(model):
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))


@contextmanager
def cast_once(model: nn.Module) -> Iterator[None]:
    """Inside, under autocast, Linear weights that get no gradient from autograd are in the dtype that it computes in.

    Of the others autocast itself keeps a copy until its context ends.
    """
    device = next(model.parameters()).device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    kept = [(w, w.data) for module in _multiplying(model) for w in module.parameters(False) if not w.requires_grad]
    for weight, own in kept:
        weight.data = own.to(dtype)
    try:
        yield
    finally:
        for weight, own in kept:
            weight.data = own


def _multiplying(model: nn.Module) -> list[nn.Module]:
    # Exact types: a subclass may do more with its weights than multiply.
    return [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
