"""Means, squared norms and variances of one parameter's gradient, from pieces of the batch as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pcr_run.gradients.groups import group_index
from pcr_run.gradients.products import wide
from pcr_run.resolver import GradientTable


@dataclass(frozen=True)
class Unit:
    """The variance's unit: parts of ``part`` consecutive rows inside wholes of ``whole`` rows.

    With n = whole / part parts u_i in each whole, scaled so that the batch gradient is their mean, the variance of the
    batch gradient is estimated by the sum over wholes of (n sum_i ||g_i||^2 - ||sum_i g_i||^2) / (n - 1), where g_i is
    the part's additive share of the batch gradient. Units `response` (parts: responses, wholes: prompts), `query`
    (prompts, the batch) and `microbatch` (microbatches, the batch) are all of this form.
    """

    part: int
    whole: int

    @classmethod
    def of(cls, name: str, rows: int, group: int, microbatch: int | None = None) -> Unit:
        """The unit called ``name`` for a batch of ``rows`` responses in groups of ``group``."""
        part, whole = {"response": (1, group), "query": (group, rows), "microbatch": (microbatch or rows, rows)}[name]
        if whole < 2 * part or whole % part or rows % whole:
            raise ValueError(
                f"unit {name}: {rows} rows, wholes of {whole} and parts of {part} leave nothing to compare"
            )
        return cls(part, whole)

    @property
    def piece(self) -> int:
        """Rows whose gradient is formed at once: a part, or a whole where parts are single rows."""
        return self.whole if self.part == 1 else self.part


class SquaredNorms:
    """Sum of squared norms of the gradients of consecutive blocks of ``size`` rows, from pieces of any smaller size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sum: Tensor | float = 0.0
        self._open: Tensor | None = None
        self._filled = 0

    def add(self, piece: Tensor | None, rows: int, metric: Tensor | None = None) -> None:
        """Take the gradient of the next ``rows`` rows, None where it is 0; a block's rows may come in several pieces.

        ``piece`` is not kept as it is: it may change afterwards. ``metric``: as ``dot`` takes it.
        """
        if self._filled + rows > self.size:
            raise ValueError(f"{rows} rows do not fit into a block of {self.size} that has {self._filled}")
        self._filled = (self._filled + rows) % self.size
        self.take(piece, self._filled == 0, metric)

    def take(self, piece: Tensor | None, ends: bool, metric: Tensor | None = None) -> None:
        """``add`` where ``ends`` says whether the piece is its block's last."""
        if ends and self._open is None:
            self.sum = self.sum if piece is None else self.sum + square(piece, metric)
            return
        if piece is not None:
            self._open = piece.clone() if self._open is None else self._open.add_(piece)
        if ends and self._open is not None:
            self.sum, self._open = self.sum + square(self._open, metric), None


class Moments:
    """One objective's gradient of one parameter over the batch, and the squared norms that its variance needs.

    ``spread``: the variance's whole is the batch, which lies on several ranks, so that none sees its gradient before
    they are summed; its squared norm is then that of the total.

    ``ends`` is None while a block of ``unit.piece`` rows lies on one rank. Else all ranks work on one block at a time,
    and it says whether the microbatch is the block's last: its sum then grows in shards, not whole on its rank.
    """

    def __init__(self, parameter: nn.Parameter, unit: Unit, spread: bool = False) -> None:
        self.parts, self.wholes = SquaredNorms(unit.part), None if spread else SquaredNorms(unit.whole)
        self._parameter = parameter
        self._total: Tensor | None = None
        self._shard: Tensor | None = None
        self.ends: bool | None = None
        self._blocks = self.wholes if unit.part == 1 else self.parts

    def add(self, piece: Tensor | None, rows: int, squares_apart: bool = False, metric: Tensor | None = None) -> None:
        """Add the gradient of the next ``rows`` rows, None where it is 0; the tensor is taken over.

        ``squares_apart``: the squared norms of parts inside it come by ``add_squares``. ``metric``: as for ``dot``.
        """
        if piece is not None:
            piece = piece.to(wide(piece.dtype))
        for squares in (None if squares_apart else self.parts, self.wholes):
            if squares is not None and (self.ends is None or squares is not self._blocks):
                squares.add(piece, rows, metric)
        if piece is not None:
            self._total = piece if self._total is None else self._total.add_(piece)

    def add_squares(self, row_sum: Tensor) -> None:
        """Add squared norms of parts whose gradients come, or came, by ``add``."""
        self.parts.sum = self.parts.sum + row_sum

    def leave(self, scatter: Callable[[Tensor], Tensor], metric: Tensor | None = None) -> None:
        """Sum what has come so far over the ranks by ``scatter``, which gives this rank's shard of it.

        ``metric``: this rank's shard of it.
        """
        shard = scatter(self._zeros() if self._total is None else self._total)
        if self.ends is not None and self._blocks is not None:
            self._blocks.take(shard, self.ends, metric)
        self._shard = shard if self._shard is None else self._shard.add_(shard)
        self._total = None

    @property
    def total(self) -> Tensor:
        """The batch gradient, in the parameter's shape; this rank's shard of it where it has left."""
        if self._shard is not None:
            return self._shard
        if self._total is None:
            self._total = self._zeros()
        return self._total

    def _zeros(self) -> Tensor:
        return torch.zeros(self._parameter.shape, dtype=wide(self._parameter.dtype), device=self._parameter.device)

    def sums(self, metric: Tensor | None = None) -> list[Tensor]:
        """Squared norms of the parts and of the wholes, added up, float64. ``metric``: this rank's shard of it."""
        wholes = square(self.total, metric) if self.wholes is None else self.wholes.sum
        device = self._parameter.device
        return [torch.as_tensor(x, dtype=torch.float64, device=device) for x in (self.parts.sum, wholes)]


def measured(
    pairs: Iterable[tuple[Moments, Moments, Tensor | None]],
    unit: Unit,
    over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> GradientTable:
    """Gramian entries and variances of g_pla and g_sta in a metric, an entry per (g_pla, g_sta, this rank's metric).

    A variance is the trace of the covariance of the batch gradient; clamped at 0 against rounding. ``over_ranks`` adds
    up a float64 tensor of sums [7, K], of which each rank has those of its own responses and of its own shards.
    """
    rows = []
    for p, s, metric in pairs:
        products = square(p.total, metric), dot(p.total, s.total, metric), square(s.total, metric)
        rows.append(torch.stack([*products, *p.sums(metric), *s.sums(metric)]))
    pp, ps, ss, *squares = over_ranks(torch.stack(rows, 1).cpu()).unbind()
    n = unit.whole // unit.part
    var_pla, var_sta = (((n * parts - wholes) / (n - 1)).clamp_min(0.0) for parts, wholes in (squares[:2], squares[2:]))
    return GradientTable(pp, ps, ss, var_pla, var_sta)


@dataclass(frozen=True)
class Resolution:
    """What one update measured and did, per named parameter: the table [K] and the weights a, b [K], float64."""

    table: GradientTable
    a: Float[Tensor, " parameters"]
    b: Float[Tensor, " parameters"]


def grouped(
    names: Sequence[str], table: GradientTable, granularity: str
) -> tuple[list[str], Int[Tensor, " parameters"], GradientTable]:
    """Sum a per-parameter table into groups: names of the groups [K], each parameter's group index, the table [K].

    Squared norms, inner products and traces of covariances add up over parameters.
    """
    groups, index = group_index(names, granularity)
    where = torch.tensor(index, dtype=torch.long)
    zeros = torch.zeros(len(groups), dtype=torch.float64)
    return groups, where, each(table, lambda column: zeros.index_add(0, where, column))


def each(table: GradientTable, function: Callable[[Tensor], Tensor]) -> GradientTable:
    """Apply ``function`` to every column."""
    return GradientTable(*(function(getattr(table, column.name)) for column in fields(table)))


def square(x: Tensor, metric: Tensor | None = None) -> Float[Tensor, ""]:
    """||x||^2, float64: as ``dot``, but where it can be without a product of the tensor's size.

    Norms of 512 entries at a time: a CPU adds the squares of a norm one after the other, which is exact for few only.
    """
    if metric is not None or x.numel() % 512 or not x.is_contiguous():
        return dot(x, x, metric)
    return torch.linalg.vector_norm(x.view(-1, 512), dim=-1, dtype=wide(x.dtype)).double().square().sum()


def dot(x: Tensor, y: Tensor, metric: Tensor | None = None) -> Float[Tensor, ""]:
    """<x, y>, float64: along the last dimension in the tensors' own precision, as their products were, then float64.

    ``metric``: the inner product's own weights, sum_k D_k x_k y_k; of the shape of x, or of its last dimensions.
    """
    if metric is not None:
        x = x * metric
        y = y.to(x.dtype)
    return torch.linalg.vecdot(x, y).sum(dtype=torch.float64)
