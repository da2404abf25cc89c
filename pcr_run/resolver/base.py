"""What a rule is: a call on a table, and what it says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pcr_run.resolver.table import GradientTable, Weights


class Resolver(ABC):
    """A rule that makes one update of two gradients, a * g_pla + b * g_sta, group by group.

    The defaults suit a rule of your own: it gets every number of the table. A rule with a state adds ``state_dict`` and
    ``load_state_dict``, which go into checkpoints.
    """

    needs_table: ClassVar[bool] = True
    """False: the plain sum, whatever the gradients are; nothing has to be measured."""
    needs_variance: ClassVar[bool] = True
    """The table's variances are read."""
    anchors: ClassVar[bool] = False
    """g_pla is projected off g_sta, which is kept whole; so a g_sta that is only noise does harm."""
    holds: frozenset[str] = frozenset()
    """Laws that hold for any table, besides finite weights (tested for every built-in rule):

    ``sum_without_conflict``: (a, b) is the plain sum (1, beta) where <g_pla, g_sta> >= 0.
    ``joint_scale``: multiplying both gradients by c leaves (a, b) as they are.
    ``penalty_scale``: with L_sta multiplied by c and beta divided by it, the update stays the same.
    """

    @abstractmethod
    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (a, b) of g_pla and g_sta, float64 [K] each; the plain sum is (1, beta)."""


class Projection(Resolver):
    """Takes a part alpha of g_pla's component along g_sta away where the two conflict (paper Eq. 14).

    The update is g_pla - alpha (ps / ss) g_sta + beta g_sta, so <update, g_sta> = (1 - alpha) ps + beta ss.
    """

    anchors = True
    holds = frozenset({"sum_without_conflict", "joint_scale", "penalty_scale"})

    @abstractmethod
    def strength(self, table: GradientTable, beta: float) -> Float[Tensor, " groups"]:
        """The alpha [K] in [0, 1] to use where there is a conflict."""

    def alpha(self, table: GradientTable, beta: float) -> Float[Tensor, " groups"]:
        """Projection strength [K]; 0 where the rule does not act."""
        return torch.where(table.conflict, self.strength(table, beta), 0.0)

    def __call__(self, table: GradientTable, beta: float) -> Weights:
        """Weights (1, beta - alpha ps / ss)."""
        a, b = table.plain(beta)
        return a, b - self.alpha(table, beta) * table.slope
