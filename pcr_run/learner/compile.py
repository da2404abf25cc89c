"""Layers compiled while a learner updates: their element-wise kernels are fused into few.

A compiled layer is cut at its attention (``packing``) and calls its taps from inside. Layers of one kind share their
graphs, whose lengths are left open: neither depth nor ragged batches compile anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
import torch._dynamo.config
import torch._functorch.config
from torch import Tensor, nn

from pcr_run.gradients.cut import replaced

log = logging.getLogger(__name__)

Backend = str | Callable[..., Any]
"""As ``torch.compile`` takes it: a name or a function."""
BACKEND: Backend = "inductor"
SETTINGS: dict[Any, dict[str, Any]] = {
    torch._functorch.config: {"donated_buffer": False},  # the second cotangent needs what the first one has read
    torch._dynamo.config: {
        "skip_nnmodule_hook_guards": False,  # a graph without taps does not do for a layer with taps
        "recompile_limit": 64,  # shared by layers of a class: policy and reference, with and without gradients, ...
    },
}
"""What torch must not assume. Past the limit of graphs a layer runs as it stands, and torch warns."""


class Compiled:
    """While entered, which may be often, these layers run compiled by ``backend``."""

    def __init__(self, layers: Sequence[nn.Module], backend: Backend) -> None:
        for config, values in SETTINGS.items():
            for name, value in values.items():
                # The default itself: what is set holds in its thread only, and on a GPU autograd has its own threads.
                config._config[name].default = value
        self.layers = layers
        self._compiled = [torch.compile(layer.forward, dynamic=True, backend=backend) for layer in layers]

    def __enter__(self) -> Compiled:
        self._replaced = replaced(self.layers, self._compiled)
        self._replaced.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._replaced.__exit__(kind, error, tb)


def compiled(
    layers: Sequence[nn.Module], gradients: Callable[[], Mapping[str, Tensor]], backend: Backend | None = None
) -> AbstractContextManager[object]:
    """A context in which the layers run compiled, or one that does nothing where that fails, which the log says.

    ``gradients`` computes some with the layers, of both cotangents: tried with compiled ones and as they stand.
    """
    if not layers:
        log.warning("nothing is compiled: the model names no layers")
        return nullcontext()
    found = Compiled(layers, backend or BACKEND)
    try:
        expected = gradients()
        with found:
            reason = _difference(gradients(), expected)
    except Exception as error:  # no compiler, no Triton, a driver that does not fit: torch has no common base
        lines = [line for line in str(error).splitlines() if line]
        reason = f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"  # torch says in the second line what it caught
    if reason is None:
        log.info("layers are compiled (%d, by %s)", len(layers), backend or BACKEND)
        return found
    log.warning("layers run as they stand: %s cannot be compiled here (%s)", type(layers[0]).__name__, reason)
    return nullcontext()


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Why compiled layers do not give the gradients of those as they stand; None if they do.

    This is to notice what is wrong, not what is rounded: bfloat16 in a deep model differs by some percent.
    """
    largest = max(gradient.norm().item() for gradient in expected.values())
    for name, gradient in expected.items():
        off = (found[name] - gradient).norm().item()
        if not off <= 0.2 * gradient.norm().item() + 1e-3 * largest:
            return f"the gradient of {name} is another one"
    return None
