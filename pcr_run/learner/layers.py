"""Rows of layers.jsonl and their summary: what one update measured and did, group by group."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcr_run.distributed.ranks import total
from pcr_run.distributed.shards import local
from pcr_run.gradients.groups import place
from pcr_run.gradients.moments import Resolution, dot, each, grouped, square
from pcr_run.resolver import variance_alpha


@dataclass(frozen=True)
class Products:
    """The optimizer's descent step d = theta_before - theta_after of each parameter: ||d||^2 and <d, g_sta>, [K].

    ``ss``: ||g_sta||^2 where the table has it in a metric; these products are in none.
    """

    dd: Tensor
    ds: Tensor
    ss: Tensor | None = None

    @classmethod
    def of(cls, step: dict[str, Tensor], stability: dict[str, Tensor], in_metric: bool) -> Products:
        """Products per parameter, float64, in the order of ``step``; of tensors in shards, summed over the ranks."""
        own = {name: local(d) for name, d in step.items()}
        return cls(
            total(torch.stack([square(d) for d in own.values()]).cpu()),
            total(torch.stack([dot(d, stability[name]) for name, d in own.items()]).cpu()),
            total(torch.stack([square(stability[name]) for name in own]).cpu()) if in_metric else None,
        )


def layer_rows(
    names: Sequence[str], resolution: Resolution, products: Products | None, chosen: Collection[str], granularity: str
) -> list[dict[str, Any]]:
    """One row per group of the ``chosen`` parameters; ``names`` [K] are those of ``resolution`` and ``products``.

    ``alpha`` is PCR's variance ratio, whatever the resolver, null like the cosines where a gradient is 0: there is no
    axis to project on while policy and reference are equal. ``a`` and ``b`` are what the resolver did, null where the
    group's parameters got different weights; ``cos_step_sta`` is of the optimizer's descent step, null where no step
    was taken or measured. All but the last are in the metric of the table.
    """
    pick = [i for i, name in enumerate(names) if name in chosen]
    kept = [names[i] for i in pick]
    t = each(resolution.table, lambda column: column[pick])
    groups, index, table = grouped(kept, t, granularity)
    a, b = resolution.a[pick], resolution.b[pick]

    def grouped_sum(column: Tensor) -> Tensor:
        return torch.zeros(len(groups), dtype=torch.float64).index_add(0, index, column)

    uu, us = grouped_sum(a * a * t.pp + 2 * a * b * t.ps + b * b * t.ss), grouped_sum(a * t.ps + b * t.ss)
    cos_pla_sta = cosine(table.ps, table.pp, table.ss)
    strength = variance_alpha(table).tolist()
    alpha = [None if axis is None else value for value, axis in zip(strength, cos_pla_sta, strict=True)]
    columns = {
        **{name: getattr(table, name).tolist() for name in ("pp", "ps", "ss", "var_pla", "var_sta")},
        "alpha": alpha,
        "cos_pla_sta": cos_pla_sta,
        "cos_update_sta": cosine(us, uu, table.ss),
        "cos_step_sta": [None] * len(groups)
        if products is None
        else cosine(
            grouped_sum(products.ds[pick]),
            grouped_sum(products.dd[pick]),
            table.ss if products.ss is None else grouped_sum(products.ss[pick]),
        ),
    }
    rows = []
    for k, group in enumerate(groups):
        members = (index == k).nonzero().flatten().tolist()
        where = place(kept[members[0]])
        rows.append(
            {
                "group": group,
                "layer": where.layer if granularity != "global" else None,
                "module": where.kind if granularity != "global" else "all",
                "a": same(a[members]),
                "b": same(b[members]),
                **{key: column[k] for key, column in columns.items()},
            }
        )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Metrics of one update over its groups, from their ``layer_rows``; a metric that no row has is left out.

    ``conflict_rate``: share of groups with <g_pla, g_sta> < 0; ``alpha``: mean variance ratio; ``cos_*``: means over
    groups; ``agree_rate``: share of the groups in conflict whose update still has <update, g_sta> >= 0.
    """
    conflicting = [row for row in rows if row["ps"] < 0]
    out = {"conflict_rate": len(conflicting) / len(rows)}
    if conflicting:
        out["agree_rate"] = sum((row["cos_update_sta"] or 0.0) >= 0 for row in conflicting) / len(conflicting)
    for key in ("alpha", "cos_pla_sta", "cos_update_sta", "cos_step_sta"):
        values = [row[key] for row in rows if row[key] is not None]
        if values:
            out[key] = sum(values) / len(values)
    return out


def cosine(product: Tensor, left: Tensor, right: Tensor) -> list[float | None]:
    """Cosines from inner products and squared norms; null where a vector is zero or not finite."""
    ratio = product / (left.sqrt() * right.sqrt())
    return [value if abs(value) < float("inf") else None for value in ratio.tolist()]


def same(values: Tensor) -> float | None:
    """The common value, or None."""
    return values[0].item() if bool((values == values[0]).all()) else None
