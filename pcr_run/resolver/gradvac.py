"""Gradient Vaccine: a target for the cosine of two gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcr_run.errors import ConfigError
from pcr_run.resolver.table import GradientTable, Weights
from pcr_run.resolver.weighting import Weighting, axes


class GradVac(Weighting):
    """Wang et al. 2021 (arXiv 2010.05874): a cosine below its moving average is raised to it, from both sides.

    g_1 gains a multiple of g_2 that gives the two the target cosine (Eq. 3), and g_2 one of g_1; they are added. Each
    group's target begins at 0, as PCGrad's, and moves by ``rate`` to the step's cosine (Eq. 4) after it was used.
    """

    def __init__(self, rate: float = 0.01) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError("resolver.options.rate", f"is {rate!r}; a number above 0, at most 1")
        self._rate = float(rate)
        self._target = torch.zeros(0, dtype=torch.float64)

    def weigh(self, pair: GradientTable) -> Weights:
        """Weights 1 + what the other gradient gained."""
        if self._target.shape != pair.pp.shape:
            self._target = torch.zeros_like(pair.pp)
        length, other = pair.pp.sqrt(), pair.ss.sqrt()
        cosine, target = (pair.ps / length / other).clamp(-1, 1), self._target
        turn = torch.where(cosine < target, target * _sine(cosine) / _sine(target) - cosine, 0.0)
        good = axes(pair) & cosine.isfinite()
        self._target = torch.where(good, target + self._rate * (cosine - target), target)
        return 1 + turn * other / length, 1 + turn * length / other

    def state_dict(self) -> dict[str, Any]:
        """The target of each group."""
        return {"target": self._target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._target = state["target"]


def _sine(cosine: Tensor) -> Tensor:
    return (1 - cosine.square()).sqrt()
