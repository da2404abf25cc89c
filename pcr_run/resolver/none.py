"""Plain GRPO: no conflict is resolved."""

from __future__ import annotations

from pcr_run.resolver.base import Resolver
from pcr_run.resolver.table import GradientTable, Weights


class PlainSum(Resolver):
    """g_pla + beta g_sta (paper Eq. 9)."""

    needs_table = False
    needs_variance = False
    holds = frozenset({"sum_without_conflict", "joint_scale", "penalty_scale"})

    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (1, beta)."""
        return table.plain(beta)
