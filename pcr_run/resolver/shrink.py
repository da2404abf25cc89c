"""Gradients by their own signal-to-noise ratios."""

from __future__ import annotations

from pcr_run.resolver.table import GradientTable, Weights
from pcr_run.resolver.weighting import Weighting


class Shrink(Weighting):
    """Each gradient times pp / (pp + V), the part of its expected square that is no noise; conflicts do not matter.

    The factor that is nearest to the true gradient if its square were pp (Wiener filter; no paper's rule, a control:
    what of a variance-aware rule comes from noise alone).
    """

    needs_variance = True

    def weigh(self, pair: GradientTable) -> Weights:
        """Weights (pp / (pp + V_pla), ss / (ss + V_sta))."""
        return 1 / (1 + pair.var_pla.clamp_min(0) / pair.pp), 1 / (1 + pair.var_sta.clamp_min(0) / pair.ss)
