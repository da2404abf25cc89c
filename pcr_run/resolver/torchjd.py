"""TorchJD's weightings (Quinton and Rey 2024): the optional extra ``pcr-run[torchjd]``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcr_run.errors import ConfigError
from pcr_run.resolver.base import Resolver
from pcr_run.resolver.table import GradientTable

SUMS_WITHOUT_CONFLICT = {"pcgrad", "upgrad", "dualproj"}
"""Weightings that leave the sum alone where there is no conflict."""


class TorchJD(Resolver):
    """Any weighting of TorchJD that works from a Gramian, by name in lower case (``upgrad``, ``mgda``, ``cagrad``...).

    The rows are g_pla and beta g_sta; weights w give the update w_1 g_pla + w_2 beta g_sta. ``options`` go to TorchJD;
    lists become tensors, and ``pref_vector`` is [1, 1] unless set, so that lengths compare with the plain sum. Groups
    without a conflict axis, or whose weights are not finite, get the plain sum. A weighting with a state (``gradvac``,
    ``pcd``) has one per group.
    """

    needs_variance = False
    holds = frozenset({"joint_scale", "penalty_scale"})

    def __init__(self, weighting: str = "upgrad", **options: Any) -> None:
        kinds = weightings()
        if weighting not in kinds:
            raise ConfigError("resolver.weighting", f"is {weighting!r}; one of {', '.join(sorted(kinds))}")
        accepted = inspect.signature(kinds[weighting]).parameters
        for key in options.keys() - accepted.keys():
            raise ConfigError(f"resolver.options.{key}", f"{weighting} takes {', '.join(accepted) or 'no options'}")
        if "pref_vector" in accepted:
            options = {"pref_vector": [1.0, 1.0]} | options
        try:
            self._new = kinds[weighting](**{k: as_tensor(v) for k, v in options.items()}).gramian_weighting
            weigh(copy.deepcopy(self._new), torch.eye(2, dtype=torch.float64))  # some need more than two rows
        except ImportError as error:
            raise ConfigError("resolver.weighting", f"{error}; pip install pcr-run[torchjd]") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError("resolver.options", f"{weighting}: {error}") from error
        self._groups: list[Any] = []
        if weighting in SUMS_WITHOUT_CONFLICT:
            self.holds = self.holds | {"sum_without_conflict"}

    def __call__(self, table: GradientTable, beta: float) -> tuple[Tensor, Tensor]:
        """Weights (w_1, beta w_2)."""
        a, b = table.plain(beta)
        gramians = self._gramians(table, beta)
        while len(self._groups) < len(gramians):
            self._groups.append(copy.deepcopy(self._new))
        for k, gramian in enumerate(gramians):
            if gramian.isfinite().all() and (gramian.diagonal() > 0).all():
                weights = weigh(self._groups[k], gramian)
                if weights.isfinite().all():
                    a.view(-1)[k], b.view(-1)[k] = weights[0], beta * weights[1]
        return a, b

    def _gramians(self, table: GradientTable, beta: float) -> Tensor:
        """Gramians [K, 2, 2] of (g_pla, beta g_sta).

        Divided by their trace: TorchJD's absolute epsilons are made for lengths near 1, and gradients of a language
        model are far shorter. Rounding is kept from breaking ps^2 <= pp ss.
        """
        pp, ps, ss = (x.flatten().cpu() for x in (table.pp, beta * table.ps, beta * beta * table.ss))
        trace = pp + ss
        pp, ps, ss = pp / trace, ps / trace, ss / trace
        bound = (pp * ss).sqrt()
        ps = ps.clamp(-bound, bound)
        return torch.stack([pp, ps, ps, ss], -1).view(-1, 2, 2)

    def state_dict(self) -> dict[str, Any]:
        """State of each group's weighting: its buffers and the shape they are for; empty for most weightings."""
        keys = [{"_state_key": w._state_key} if hasattr(w, "_state_key") else {} for w in self._groups]
        return {"groups": [{**w._buffers, **key} for w, key in zip(self._groups, keys, strict=True)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._groups = [copy.deepcopy(self._new) for _ in state["groups"]]
        for weighting, saved in zip(self._groups, state["groups"], strict=True):
            for key, value in saved.items():
                setattr(weighting, key, value)


def weightings() -> dict[str, Any]:
    """TorchJD's aggregators whose weights come from a Gramian, by name in lower case."""
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise ConfigError("resolver.name", "torchjd is not installed; pip install pcr-run[torchjd]") from error
    base = aggregation.GramianWeightedAggregator
    kinds = (getattr(aggregation, name) for name in aggregation.__all__)
    return {k.__name__.lower(): k for k in kinds if issubclass(k, base) and k is not base}


def weigh(weighting: Any, gramian: Tensor) -> Tensor:
    """Weights [2] of a Gramian [2, 2]. Some weightings shuffle the rows; that may not move the run's other draws."""
    with torch.random.fork_rng(devices=[]):
        return weighting(gramian)


def as_tensor(value: Any) -> Any:
    """A list of numbers (YAML's too) as a float64 tensor; anything else as it is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return torch.tensor([float(x) for x in value], dtype=torch.float64)
    return value
