"""The inner product in which the two gradients are compared: that of their entries, or the one that AdamW moves in.

AdamW multiplies a weight's (averaged) gradient by D = 1 / (sqrt(v) + eps). With <x, y> = sum_k D_k x_k y_k, <u, g> is
how fast a loss with the gradient g changes along the step D u, and a projection on g in it keeps that at 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pcr_run.gradients import Metric
from pcr_run.gradients.products import wide

log = logging.getLogger(__name__)

Space = Callable[[Optimizer, Mapping[str, nn.Parameter]], Metric | None]
"""The metric of an update that the optimizer has not made yet, of parameters by name; None: D is 1."""


def gradient(_optimizer: Optimizer, _parameters: Mapping[str, nn.Parameter]) -> None:
    """Products of the gradients themselves."""


def preconditioned(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> Metric | None:
    """Products in AdamW's metric, by the second moments that it holds; None before its first step, when it has none."""
    if not optimizer.state:
        log.info("resolver.space: there are no moments before the first update, so it is resolved in gradient space")
        return None
    return lambda name: _scale(optimizer, parameters[name])


SPACES: dict[str, Space] = {"gradient": gradient, "preconditioned": preconditioned}
"""What ``resolver.space`` may name."""


def _scale(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor:
    """D = 1 / (sqrt(v / (1 - b2^t)) + eps); 0 where v is 0: of a weight without a history no step is known."""
    state, (group,) = optimizer.state.get(parameter), optimizer.param_groups
    if not state:
        return torch.zeros_like(parameter, requires_grad=False)
    v = state["exp_avg_sq"]
    v = v.dequantize() if hasattr(v, "codes") else v.to(wide(v.dtype))
    corrected = v / (1 - group["betas"][1] ** state["step"].double()).to(v.dtype)
    return torch.where(v > 0, 1 / (corrected.sqrt() + group["eps"]), 0.0)
