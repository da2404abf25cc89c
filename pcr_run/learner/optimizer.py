"""Optimizers by name, and the metric in which they see a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pcr_run.schema import LearnerConfig

Maker = Callable[[Iterable[nn.Parameter], LearnerConfig], torch.optim.Optimizer]


def adamw(weights: Iterable[nn.Parameter], cfg: LearnerConfig) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019."""
    betas = cfg.betas[0], cfg.betas[1]
    return torch.optim.AdamW(weights, lr=cfg.lr, betas=betas, weight_decay=cfg.weight_decay, fused=True)


def sgd(weights: Iterable[nn.Parameter], cfg: LearnerConfig) -> torch.optim.Optimizer:
    """The gradient itself, without momentum; weight decay is decoupled here too, since there is nothing to couple."""
    return torch.optim.SGD(weights, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True)


OPTIMIZERS: dict[str, Maker] = {"adamw": adamw, "sgd": sgd}


def preconditioner(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Tensor | None:
    """1 / (sqrt(v) + eps) in the weight's shape, what AdamW's next step multiplies with; None before its first one.

    v are the second moments so far, corrected for their start at 0.
    """
    state = optimizer.state.get(weight)
    if not state:
        return None
    group = next(group for group in optimizer.param_groups if any(each is weight for each in group["params"]))
    correction = 1 - group["betas"][1] ** float(state["step"])
    return 1 / ((state["exp_avg_sq"] / correction).sqrt() + group["eps"])
