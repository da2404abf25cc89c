"""Conflict-averse gradient descent with clipped weights."""

from __future__ import annotations

import torch
from torch import Tensor

from pcr_run.errors import ConfigError
from pcr_run.resolver.table import GradientTable, Weights
from pcr_run.resolver.weighting import Weighting, disagreement


class CAGrad(Weighting):
    """g_0 + c ||g_0|| g_p / ||g_p||, g_0 half the plain sum, g_p = sum_i min(p_i, 1/2) g_i (Chen et al. 2026, RACO).

    p is that of CAGrad (Liu et al. 2021, arXiv 2110.14048): the convex weights that minimise <g_p, g_0> + c ||g_0||
    ||g_p||; RACO (arXiv 2602.02495) lets none be above the objective's own, here 1/2. Twice the result is the update,
    so that c = 0 is the plain sum.
    """

    def __init__(self, c: float = 0.5) -> None:
        if isinstance(c, bool) or not isinstance(c, int | float) or not 0 <= c < 1:
            raise ConfigError("resolver.options.c", f"is {c!r}; a number from 0 (plain sum) to below 1")
        self._c = float(c)

    def weigh(self, pair: GradientTable) -> Weights:
        """Weights 1 + 2 c ||g_0|| / ||g_p|| min(p_i, 1/2)."""
        first = self.share(pair)
        p, q = first.clamp(max=0.5), (1 - first).clamp(max=0.5)
        length = (p * p * pair.pp + 2 * p * q * pair.ps + q * q * pair.ss).sqrt()
        reach = 2 * self._c * _middle(pair) / length
        return 1 + reach * p, 1 + reach * q

    def share(self, pair: GradientTable) -> Tensor:
        """p_1 in closed form: where the derivative of CAGrad's objective by p_1 is 0, or an end of [0, 1].

        With g_p = g_2 + p_1 d, d = g_1 - g_2, it is L + k (D p_1 + B) / ||g_p||, where L = <d, g_0>, k = c ||g_0||,
        D = ||d||^2, B = <g_2, d>.
        """
        long, across = disagreement(pair), pair.ps - pair.ss
        slope = (pair.pp - pair.ss) / 2
        ratio = (slope / (self._c * _middle(pair))).square() / long
        rest = (pair.pp * pair.ss - pair.ps.square()).clamp_min(0)  # D ||g_2||^2 - B^2
        root = (-slope.sign() * (ratio * rest / (1 - ratio)).sqrt() - across) / long
        return torch.where(ratio < 1, root, (slope < 0).to(root.dtype)).clamp(0, 1)


def _middle(pair: GradientTable) -> Tensor:
    """||g_0||."""
    return (pair.pp + 2 * pair.ps + pair.ss).clamp_min(0).sqrt() / 2
