"""PCR as its equations are printed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pcr_run.resolver.base import Resolver
from pcr_run.resolver.table import GradientTable, Weights, variance_alpha


class PCRLiteral(Resolver):
    """Eq. 15/16 to the letter: g_pla - alpha (ps / ss) g_sta, with or without conflict, and no beta g_sta.

    So <update, g_sta> = (1 - alpha) ps: the penalty acts through the projection alone, and alpha -> 0 leaves g_pla.
    """

    anchors = True
    holds = frozenset({"joint_scale"})

    def alpha(self, table: GradientTable, beta: float) -> Float[Tensor, " groups"]:
        """Projection strength [K]: the variance ratio, 0 where there is no axis to project on."""
        return torch.where(table.slope != 0, variance_alpha(table), 0.0)

    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (1, -alpha ps / ss); (1, 0) where g_sta is zero."""
        return torch.ones_like(table.pp), -self.alpha(table, beta) * table.slope
