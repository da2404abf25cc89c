"""Optimizers by name: from parameters and the configuration to one of torch's kind; their state in full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pcr_run.distributed.shards import local, part_of
from pcr_run.schema import LearnerConfig


def adamw(parameters: Iterable[nn.Parameter], cfg: LearnerConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019), two moments in the parameters' dtype, updated by one fused kernel."""
    return torch.optim.AdamW(parameters, fused=True, **_moments(cfg))


def adamw8bit(parameters: Iterable[nn.Parameter], cfg: LearnerConfig) -> Optimizer:
    """AdamW whose moments take 8 bits a weight and one scale for each 256 (Dettmers et al. 2022), by torchao.

    Weights of fewer than 4,096 entries keep theirs in full; of a model in shards each shard counts as a weight. Its
    kernels are compiled; on a CPU, where compiling takes longer than the step saves, they are not.
    """
    from torchao.optim import AdamW8bit

    class Interpreted(AdamW8bit):
        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    parameters = list(parameters)
    kind = AdamW8bit if parameters[0].is_cuda else Interpreted
    made: Optimizer = kind(parameters, **_moments(cfg))
    return made


def sgd(parameters: Iterable[nn.Parameter], cfg: LearnerConfig) -> Optimizer:
    """The gradient itself, without momentum; weight decay is decoupled here too, since there is nothing to couple."""
    parameters = list(parameters)
    fused = not isinstance(parameters[0], DTensor)  # of shards torch has no such kernel
    return torch.optim.SGD(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=fused)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], LearnerConfig], Optimizer]] = {
    "adamw": adamw,
    "adamw8bit": adamw8bit,
    "sgd": sgd,
}
"""What ``learner.optimizer`` may name."""


def make_loadable(name: str) -> None:
    """Let ``torch.load`` know the types of tensors that the state of an optimizer is made of."""
    if name == "adamw8bit":
        import torchao.optim  # noqa: F401  (registers them)


@contextmanager
def widened(optimizer: Optimizer) -> Iterator[None]:
    """Inside, moments of 8 bits go out (``state_dict``) and come in (``load_state_dict``) as float32.

    Blocks of 256 end where a shard ends, so another number of ranks has others. What went out and comes back to the
    same blocks is what it was.
    """
    if not hasattr(optimizer, "block_size"):  # all others keep what they are
        yield
        return
    hooks = [
        optimizer.register_state_dict_post_hook(_dequantised),
        optimizer.register_load_state_dict_post_hook(_quantised),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def in_full(value: Any) -> Any:
    """A part of an optimizer's state: moments of 8 bits in float32, all else as it is."""
    if isinstance(value, DTensor):
        return part_of(in_full(local(value)), like=value)
    return value.dequantize() if hasattr(value, "codes") else value


def _dequantised(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    found = {i: {key: in_full(value) for key, value in kept.items()} for i, kept in state["state"].items()}
    return {**state, "state": found}


def _quantised(optimizer: Any) -> None:
    for parameter, kept in optimizer.state.items():
        for key, value in kept.items():
            if key != "step":
                kept[key] = optimizer._new_buffer(parameter, key == "exp_avg").copy_(value)


def _moments(cfg: LearnerConfig) -> dict[str, Any]:
    return {"lr": cfg.lr, "betas": (cfg.betas[0], cfg.betas[1]), "weight_decay": cfg.weight_decay}
