"""Optimizers by name: from parameters and the configuration to one of torch's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pcr_run.schema import LearnerConfig


def adamw(parameters: Iterable[nn.Parameter], cfg: LearnerConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019), two moments in the parameters' dtype, updated by one fused kernel."""
    return torch.optim.AdamW(parameters, fused=True, **_moments(cfg))


def adamw8bit(parameters: Iterable[nn.Parameter], cfg: LearnerConfig) -> Optimizer:
    """AdamW whose moments take 8 bits a weight and one scale for each 256 (Dettmers et al. 2022), by torchao.

    Weights of fewer than 4,096 entries keep theirs in full. Its kernels are compiled; on a CPU, where compiling takes
    longer than the step saves, they are not.
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


def _moments(cfg: LearnerConfig) -> dict[str, Any]:
    return {"lr": cfg.lr, "betas": (cfg.betas[0], cfg.betas[1]), "weight_decay": cfg.weight_decay}
