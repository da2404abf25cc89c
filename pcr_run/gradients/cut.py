"""A forward pass cut at the borders of the model's layers, so that two cotangents can go down layer by layer.

Autograd alone would walk the whole graph twice and keep what the first walk found in every layer until the second one
comes by. Cut, each layer's graph is walked twice and forgotten: one layer's pair of cotangents is alive, and where
activations are recomputed they are recomputed once for both (twin cotangents; see docs/architecture.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

log = logging.getLogger(__name__)
Context = Callable[[], AbstractContextManager[Any]]


class CannotCutError(Exception):
    """A gradient would go around the border of a layer."""


@dataclass(frozen=True)
class Cotangents:
    """What two losses say of a tensor, in its shape: the derivatives of L_pla + beta L_sta and of L_sta.

    ``sta`` None: nothing is kept apart. ``total`` None: L_pla does not depend on the tensor, so it is beta ``sta``.
    """

    total: Float[Tensor, "*shape"] | None
    sta: Float[Tensor, "*shape"] | None


@dataclass(frozen=True)
class Segment:
    """A part of a graph: from ``leaf`` (None: from the model's parameters alone) to what ``output`` gives.

    ``layers``: the layer that it is, if it is one.
    """

    leaf: Tensor | None
    output: Callable[[], Tensor]
    layers: tuple[nn.Module, ...] = ()


@contextmanager
def replaced(layers: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Inside, each layer runs another forward function than its own."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward  # the class's own is behind it
            else:
                layer.forward = own


class Cut:
    """While entered, forward passes that record gradients leave their segments here.

    ``layers``: of the model, called one after the other. ``recompute``: forget a layer's activations and compute them
    again for the backward pass, in ``context`` (autocast).
    """

    def __init__(self, layers: Sequence[nn.Module], recompute: bool = False, context: Context = nullcontext) -> None:
        self.layers, self.recompute, self.context = layers, recompute, context
        self._segments: list[Segment] = []
        self._last: Tensor | None = None  # what the layer before gave to the rest of the model

    def __enter__(self) -> Cut:
        self._replaced = replaced(self.layers, [partial(self._forward, each, each.forward) for each in self.layers])
        self._replaced.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._replaced.__exit__(kind, error, tb)
        self._segments, self._last = [], None

    def take(self, output: Tensor) -> list[Segment]:
        """The segments of the forward pass that ended in ``output``, from the top down."""
        segments = [*self._segments, Segment(self._last, lambda: output)]
        self._segments, self._last = [], None
        return segments[::-1]

    def _forward(self, layer: nn.Module, forward: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **more)
        if arguments:
            hidden, *others = arguments
            call = lambda h: forward(h, *others, **more)  # noqa: E731
        else:
            hidden = more.pop("hidden_states")
            call, others = lambda h: forward(hidden_states=h, **more), []
        if any(_records(other) for other in (*others, *more.values())):
            raise CannotCutError("a layer gets more than hidden states that depend on parameters")
        leaf = hidden
        if hidden is not self._last:  # the embeddings, or what a model does between two layers
            self._segments.append(Segment(self._last, lambda: hidden))
            leaf = hidden.detach().requires_grad_()
        if self.recompute:
            with torch.no_grad():
                given = call(leaf)
            self._segments.append(Segment(leaf, partial(self._again, call, leaf), (layer,)))
        else:
            given = call(leaf)
            out = _first(given)
            self._segments.append(Segment(leaf, lambda: out, (layer,)))
        self._last = _first(given).detach().requires_grad_()
        if not isinstance(given, tuple):
            return self._last
        # Attention weights and the like; were they used, ``cuttable`` would miss their gradient.
        return (self._last, *(x.detach() if isinstance(x, Tensor) else x for x in given[1:]))

    def _again(self, call: Callable[[Tensor], Any], leaf: Tensor) -> Tensor:
        with torch.enable_grad(), self.context():
            return _first(call(leaf))


def cuttable(model: nn.Module, run: Callable[[Tensor], Tensor]) -> list[nn.Module]:
    """The model's layers if cutting at their borders gives the gradients of one backward pass, else an empty list.

    ``run`` gives hidden states [2, 3, d] for token ids [2, 3]. Tried once with all parameters, since streams beside the
    hidden states (shared keys, embeddings per layer) would be lost without an error. The log says what was found.
    """
    layers = outermost(model)
    kept = {name: p.grad for name, p in model.named_parameters()}
    try:
        reason = _difference(model, layers, run) if layers else "it names no layers"
    except (CannotCutError, RuntimeError, TypeError, KeyError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    for name, parameter in model.named_parameters():
        parameter.grad = kept[name]
    if reason is None:
        log.info("gradients go down layer by layer (%d layers)", len(layers))
        return layers
    log.info("gradients go down in one piece: %s cannot be cut at its layers (%s)", type(model).__name__, reason)
    return []


def _difference(model: nn.Module, layers: Sequence[nn.Module], run: Callable[[Tensor], Tensor]) -> str | None:
    """Why a cut pass gives other gradients; None if it does not. Leaves gradients behind."""
    ids = torch.arange(6, device=next(model.parameters()).device).view(2, 3) % 7
    cut = Cut(layers)
    with torch.enable_grad():
        whole = run(ids)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(whole.shape, generator=generator).to(whole)
        model.zero_grad(set_to_none=True)
        whole.backward(cotangent)
        norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
        with cut:
            segments = cut.take(run(ids))
            back: Tensor | None = -cotangent  # what is left of the sum of both must be rounding
            for segment in segments:
                out = segment.output()
                if back is None or not out.requires_grad:
                    break
                out.backward(back)
                back = None if segment.leaf is None else segment.leaf.grad
    if len(segments) < len(layers):
        return "not every layer is called"
    tolerance = 0.05 if whole.dtype in (torch.bfloat16, torch.float16) else 1e-3
    for name, parameter in model.named_parameters():
        left = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        if not left <= tolerance * norms.get(name, 0.0) + 1e-6 * max(norms.values()):
            return f"the gradient of {name} goes around them"
    return None


def outermost(module: nn.Module) -> list[nn.Module]:
    """The layers that transformers checkpoints, none inside another."""
    found: list[nn.Module] = []
    for child in module.children():
        found += [child] if isinstance(child, GradientCheckpointingLayer) else outermost(child)
    return found


def _first(given: Any) -> Tensor:
    first = given[0] if isinstance(given, tuple) else given
    if not isinstance(first, Tensor):
        raise CannotCutError(f"a layer gives {type(first).__name__}")
    return first


def _records(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(_records(each) for each in value.values())
    return isinstance(value, tuple | list) and any(_records(each) for each in value)
