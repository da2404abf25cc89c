"""Soft projection with a constant strength."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pcr_run.errors import ConfigError
from pcr_run.resolver.base import Projection
from pcr_run.resolver.table import GradientTable


class Fixed(Projection):
    """PCR with a constant ``alpha`` (paper Fig. 4a); alpha = 1 is the one-sided projection of Theorem 5.1."""

    needs_variance = False

    def __init__(self, alpha: float = 0.5) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ConfigError("resolver.alpha", f"is {alpha!r}; a number from 0 (plain sum) to 1 (hard projection)")
        self._alpha = float(alpha)

    def strength(self, table: GradientTable, beta: float) -> Float[Tensor, " groups"]:
        """The constant, for every group."""
        return torch.full_like(table.ps, self._alpha)
