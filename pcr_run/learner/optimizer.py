"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

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
