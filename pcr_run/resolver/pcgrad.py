"""PCGrad for two objectives."""

from __future__ import annotations

import torch

from pcr_run.resolver.base import Resolver
from pcr_run.resolver.table import GradientTable, Weights, finite


class PCGrad(Resolver):
    """Yu et al. 2020: under conflict g_pla and beta g_sta are each projected off the other, then summed.

    Each is projected off the other as it was before, so the order cannot matter. The result does not shrink with beta:
    the scale of the second gradient cancels in b = beta - ps / ss. beta = 0 leaves one objective, and no conflict.
    """

    needs_variance = False
    holds = frozenset({"sum_without_conflict", "joint_scale", "penalty_scale"})

    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (1 - beta ps / pp, beta - ps / ss) under conflict, else (1, beta)."""
        a, b = table.plain(beta)
        other = finite(table.ps / table.pp)  # the component of g_sta along g_pla
        acts = table.conflict & (other < 0) & (beta > 0)
        return torch.where(acts, a - beta * other, a), torch.where(acts, b - table.slope, b)
