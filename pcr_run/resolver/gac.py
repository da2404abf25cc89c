"""Noise-aware weights of two gradients."""

from __future__ import annotations

from pcr_run.resolver.table import GradientTable, Weights
from pcr_run.resolver.weighting import Weighting, disagreement


class GAC(Weighting):
    """Hu et al. 2026 (arXiv 2605.26184): the mixture (1 - mu) g_1 + mu g_2 that is nearest to g_1's expectation.

    Its mean squared error is (1 - mu)^2 V_1 + mu^2 (V_2 + D), D the squared distance of the two, so mu = V_1 / (V_1 +
    V_2 + D). Weights are twice the mixture's: mu = 1/2 is the plain sum. Here g_2 is beta g_sta, and the estimates are
    the step's own: no moving averages, prior or caps.
    """

    needs_variance = True

    def weigh(self, pair: GradientTable) -> Weights:
        """Weights (2 (1 - mu), 2 mu)."""
        noise, other = pair.var_pla.clamp_min(0), pair.var_sta.clamp_min(0) + disagreement(pair)
        share = noise / (noise + other)
        return 2 * (1 - share), 2 * share
