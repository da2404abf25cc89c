"""Rules that weigh g_pla and beta g_sta, whatever their conflict is."""

from __future__ import annotations

from abc import abstractmethod

import torch

from pcr_run.resolver.base import Resolver
from pcr_run.resolver.table import GradientTable, Weights


class Weighting(Resolver):
    """Makes w_1 g_pla + w_2 beta g_sta from the table of that pair, so the scale of L_sta alone cannot matter.

    (1, 1) is the plain sum. Groups in which one of the two is zero, or something is not finite, get it too.
    """

    needs_variance = False
    holds = frozenset({"joint_scale", "penalty_scale"})

    @abstractmethod
    def weigh(self, pair: GradientTable) -> Weights:
        """Weights (w_1, w_2) [K] of the two gradients of ``pair``."""

    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (w_1, beta w_2)."""
        square = beta * beta
        pair = GradientTable(table.pp, beta * table.ps, square * table.ss, table.var_pla, square * table.var_sta)
        first, second = self.weigh(pair)
        a, b = table.plain(beta)
        acts = axes(pair) & first.isfinite() & second.isfinite()
        return torch.where(acts, first, a), torch.where(acts, beta * second, b)


def axes(pair: GradientTable) -> torch.Tensor:
    """Groups in which both gradients have a direction."""
    return (pair.ps / pair.pp).isfinite() & (pair.ps / pair.ss).isfinite()


def disagreement(pair: GradientTable) -> torch.Tensor:
    """Squared distance of the two gradients [K]."""
    return (pair.pp - 2 * pair.ps + pair.ss).clamp_min(0)
