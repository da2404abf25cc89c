"""The shortest vector between two gradients."""

from __future__ import annotations

from pcr_run.resolver.table import GradientTable, Weights
from pcr_run.resolver.weighting import Weighting, disagreement


class MGDA(Weighting):
    """Désidéri 2012: the shortest mixture of g_pla and beta g_sta, in closed form (Sener and Koltun 2018).

    Weights are twice the convex ones, so that two gradients of one length give the plain sum.
    """

    def weigh(self, pair: GradientTable) -> Weights:
        """Weights (2 x, 2 (1 - x)), x = <g_2 - g_1, g_2> / ||g_2 - g_1||^2 in [0, 1]."""
        share = ((pair.ss - pair.ps) / disagreement(pair)).clamp(0, 1)
        return 2 * share, 2 * (1 - share)
