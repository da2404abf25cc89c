"""The table that every rule works on: five numbers for each parameter group."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Weights = tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]
"""The weights (a, b) of g_pla and g_sta in an update, float64, an entry per parameter group."""


@dataclass(frozen=True)
class GradientTable:
    """What is known of the two gradients, an entry per parameter group; float64 tensors of one shape [K].

    ``pp`` = ||g_pla||^2, ``ps`` = <g_pla, g_sta>, ``ss`` = ||g_sta||^2, with beta outside g_sta; ``var_pla`` and
    ``var_sta``: the trace of the covariance of each batch gradient, in the same units as ``pp`` and ``ss``.
    """

    pp: Tensor
    ps: Tensor
    ss: Tensor
    var_pla: Tensor
    var_sta: Tensor

    def __post_init__(self) -> None:  # not by annotation: in production too, since anybody may make one
        for f in fields(self):
            column = getattr(self, f.name)
            if column.dtype != torch.float64 or column.shape != self.pp.shape:
                raise ValueError(
                    f"GradientTable.{f.name}: float64 of shape {list(self.pp.shape)} wanted, "
                    f"got {column.dtype} of shape {list(column.shape)}"
                )

    @property
    def slope(self) -> Float[Tensor, " groups"]:
        """<g_pla, g_sta> / ||g_sta||^2 [K], the component of g_pla along g_sta; 0 where there is no such axis.

        No axis: g_sta is zero, or an inner product or the quotient is not finite.
        """
        return finite(self.ps / self.ss, self.pp)

    @property
    def conflict(self) -> Bool[Tensor, " groups"]:
        """Groups [K], bool, whose gradients have a negative inner product along an axis that exists."""
        return self.slope < 0

    def plain(self, beta: float) -> Weights:
        """Weights (1, beta) of the plain sum g_pla + beta g_sta, for every group."""
        return torch.ones_like(self.pp), torch.full_like(self.pp, beta)


def finite(values: Tensor, *others: Tensor) -> Float[Tensor, " groups"]:
    """``values``, with 0 where they or any of the ``others`` are not finite."""
    good = values.isfinite()
    for other in others:
        good = good & other.isfinite()
    return torch.where(good, values, 0.0)


def variance_alpha(table: GradientTable, ratio: float = 1.0) -> Float[Tensor, " groups"]:
    """PCR's projection strength var_pla / (var_pla + ratio * var_sta) [K], with or without conflict (paper Eq. 13).

    In [0, 1]; 0 where both variances are 0 or one is not finite. A negative estimate of a variance counts as 0.
    """
    var_pla, var_sta = table.var_pla.clamp_min(0), table.var_sta.clamp_min(0)
    # Written with the quotient, so that no sum or product of extreme variances overflows.
    return finite(1 / (1 + var_sta / var_pla * ratio), var_pla, var_sta)
