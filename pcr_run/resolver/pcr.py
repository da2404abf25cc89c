"""Probabilistic Conflict Resolution."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from pcr_run.errors import ConfigError
from pcr_run.resolver.base import Projection
from pcr_run.resolver.table import GradientTable, variance_alpha


class PCR(Projection):
    """The projection strength is the plasticity's share of the variance (paper Eq. 13-14), the penalty is kept.

    ``alpha_scale`` says which variances are compared. ``raw``: as they are, as in the paper; alpha then depends on the
    scale of L_sta. ``beta``: those of g_pla and beta g_sta. ``relative``: each divided by its squared gradient norm.
    """

    def __init__(self, alpha_scale: str = "raw") -> None:
        if alpha_scale not in ("raw", "beta", "relative"):
            raise ConfigError("resolver.alpha_scale", f"is {alpha_scale!r}; raw, beta or relative")
        self.alpha_scale = alpha_scale
        if alpha_scale == "raw":
            self.holds = Projection.holds - {"penalty_scale"}

    def strength(self, table: GradientTable, beta: float) -> Float[Tensor, " groups"]:
        """var_pla / (var_pla + var_sta), on the scale chosen."""
        match self.alpha_scale:
            case "beta":
                return variance_alpha(table, beta * beta)
            case "relative":
                relative = {"var_pla": table.var_pla / table.pp, "var_sta": table.var_sta / table.ss}
                return variance_alpha(replace(table, **relative))
        return variance_alpha(table)
