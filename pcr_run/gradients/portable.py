"""Two gradients and their variances from one forward pass, and an update made of them in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from pcr_run.gradients.groups import group_index
from pcr_run.gradients.taps import (
    Sink,
    chunks,
    ghost_is_cheaper,
    linear_modules,
    products_at_once,
    row_preserving,
    row_squares,
    tap,
    token_gram,
    weight_gradient,
    weight_gradients,
)
from pcr_run.resolver import GradientTable, Resolver


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
    def of(cls, name: str, rows: int, group: int, microbatch: int | None = None) -> Self:
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

    def add(self, piece: Tensor, rows: int) -> None:
        """Take the gradient of the next ``rows`` rows; a block's rows may come in several pieces."""
        if rows == self.size:
            self.sum = self.sum + square(piece)
            return
        if self._filled + rows > self.size:
            raise ValueError(f"{rows} rows do not fit into a block of {self.size} that has {self._filled}")
        self._open = piece.clone() if self._open is None else self._open.add_(piece)
        self._filled += rows
        if self._filled == self.size:
            self.sum = self.sum + square(self._open)
            self._open, self._filled = None, 0


class Moments:
    """One objective's gradient of one parameter over the batch, and the squared norms that its variance needs."""

    def __init__(self, parameter: nn.Parameter, unit: Unit) -> None:
        self.total = torch.zeros_like(parameter, dtype=wide(parameter.dtype), requires_grad=False)
        self.unit = unit
        self.parts, self.wholes = SquaredNorms(unit.part), SquaredNorms(unit.whole)

    def add(self, piece: Tensor, rows: int, row_sum: Tensor | None = None) -> None:
        """Add the gradient of the next ``rows`` rows; ``row_sum`` is their sum of per-row squared norms if known."""
        piece = piece.to(self.total.dtype)
        self.total.add_(piece)
        if row_sum is None:
            self.parts.add(piece, rows)
        else:
            self.parts.sum = self.parts.sum + row_sum
        self.wholes.add(piece, rows)

    def variance(self) -> Tensor:
        """Trace of the covariance of the batch gradient, 0-d float64; clamped at 0 against rounding."""
        n = self.unit.whole // self.unit.part
        spread = n * torch.as_tensor(self.parts.sum) - torch.as_tensor(self.wholes.sum)
        return (spread / (n - 1)).to(torch.float64).clamp_min(0.0)


class TwoGradients:
    """Collects g_pla and g_sta of chosen parameters over the microbatches of one update.

    ``names``: parameters to keep the two gradients of. ``rows``: responses in the update, N = P * G, prompt-major.
    ``group``: G. ``unit``: see Unit. Microbatches come in order, each with whole groups or a divisor of one.
    Memory: one extra copy of the named parameters for g_sta; one more per objective while a group is split over
    microbatches.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        rows: int,
        group: int,
        unit: str = "response",
        microbatch: int | None = None,
        tapped: dict[str, nn.Module] | None = None,
    ) -> None:
        self.model, self.names, self.rows = model, list(names), rows
        self.unit = Unit.of(unit, rows, group, microbatch)
        named = dict(model.named_parameters())
        self._parameters = {name: named[name] for name in self.names}
        self._tapped = tappable(model, self.names) if tapped is None else tapped
        by_tap = {f"{path}.{leaf}" for path in self._tapped for leaf in ("weight", "bias")}
        self._dense = [name for name in self.names if name not in by_tap]
        self._plain = [p for name, p in named.items() if p.requires_grad and name not in self._parameters]
        self._pla = {name: Moments(p, self.unit) for name, p in self._parameters.items()}
        self._sta = {name: Moments(p, self.unit) for name, p in self._parameters.items()}
        self._anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)
        self._stability: dict[str, Tensor] = {}  # cotangents of the stability pass, kept until the second one
        self._beta: float | None = None  # None during the stability pass
        self._seen = 0

    @property
    def max_microbatch(self) -> int:
        """Most rows in one ``backward``: parameters that are no plain matrix weight are only split by it."""
        return self.unit.part if self._dense else self.rows

    def __enter__(self) -> Self:
        self._handles = [tap(module, self._anchor, self._receive(path)) for path, module in self._tapped.items()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._stability.clear()

    def backward(self, pla: Tensor, sta: Tensor, beta: float, rows: int) -> None:
        """Add one microbatch of ``rows`` responses: scalar losses ``pla`` and ``sta`` on one graph.

        Two passes: the first, of ``sta``, stops at the taps and computes no weight gradient but theirs; the second, of
        ``pla + beta * sta``, is the ordinary one. g_pla comes from the cotangents' difference.
        """
        if rows > self.max_microbatch:
            raise ValueError(f"{rows} rows at once, but {self._dense[0]} allows only {self.max_microbatch}")
        anchor = [self._anchor] if self._tapped else []
        dense = [self._parameters[name] for name in self._dense]
        self._beta = None
        _, *dense_sta = torch.autograd.grad(
            sta, [self._anchor, *dense], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for parameter in dense:
            parameter.grad = None
        self._beta = beta
        torch.autograd.backward(pla + beta * sta, inputs=[*anchor, *self._plain, *dense])
        for name, parameter, from_sta in zip(self._dense, dense, dense_sta, strict=True):
            total = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = None
            self._pla[name].add(total - beta * from_sta, rows)
            self._sta[name].add(from_sta, rows)
        self._seen += rows

    def _receive(self, path: str) -> Sink:
        transposed = not isinstance(self._tapped[path], nn.Linear)  # Conv1D keeps [in, out]

        def sink(x: Tensor, cotangent: Tensor) -> None:
            if self._beta is None:
                self._stability[path] = cotangent
                return
            from_sta = self._stability.pop(path)
            from_pla = cotangent - self._beta * from_sta
            x = x.to(cotangent.dtype)
            ghost = token_gram(x) if self.unit.part == 1 and ghost_is_cheaper(x, cotangent) else None
            for b, moments in ((from_pla, self._pla), (from_sta, self._sta)):
                self._add(path, transposed, x, b, ghost, moments)

        return sink

    def _add(
        self, path: str, transposed: bool, x: Tensor, b: Tensor, ghost: Tensor | None, moments: dict[str, Moments]
    ) -> None:
        """Weight and bias gradients of one microbatch from inputs x [rows, T, in] and cotangents b [rows, T, out]."""
        by_row = self.unit.part == 1
        weight, bias = moments.get(f"{path}.weight"), moments.get(f"{path}.bias")
        for rows in chunks(len(x), min(self.unit.piece, len(x))):
            xs, bs = x[rows], b[rows]
            row_sum: Tensor | None = None
            if weight is not None:
                if by_row and ghost is None:
                    piece, row_sum = sum_of_rows(xs, bs, transposed, products_at_once(xs, bs))
                else:
                    piece = weight_gradient(xs, bs, transposed)
                    if ghost is not None:
                        row_sum = row_squares(ghost[rows], bs).sum(dtype=torch.float64)
                weight.add(piece, len(xs), row_sum)
            if bias is not None:
                per_row = bs.sum(1)
                bias.add(per_row.sum(0), len(xs), square(per_row) if by_row else None)

    def table(self) -> GradientTable:
        """Gramian entries and variances of each named parameter, float64 [len(names)]; call before ``apply``."""
        if self._seen != self.rows:
            raise ValueError(f"the update has {self.rows} rows, but {self._seen} came")
        pairs = [(self._pla[name], self._sta[name]) for name in self.names]
        columns = (
            [square(p.total) for p, _ in pairs],
            [dot(p.total, s.total) for p, s in pairs],
            [square(s.total) for _, s in pairs],
            [p.variance() for p, _ in pairs],
            [s.variance() for _, s in pairs],
        )
        return GradientTable(*(torch.stack(column).cpu() for column in columns))

    def plasticity(self) -> dict[str, Tensor]:
        """g_pla of each named parameter; call before ``apply``."""
        return {name: self._pla[name].total for name in self.names}

    def stability(self) -> dict[str, Tensor]:
        """g_sta of each named parameter."""
        return {name: self._sta[name].total for name in self.names}

    def apply(self, a: Tensor, b: Tensor) -> None:
        """Set ``.grad`` of each named parameter to a * g_pla + b * g_sta, in place; a and b are [len(names)]."""
        for name, a_i, b_i in zip(self.names, a.tolist(), b.tolist(), strict=True):
            update = self._pla[name].total.mul_(a_i).add_(self._sta[name].total, alpha=b_i)
            self._parameters[name].grad = update.to(self._parameters[name].dtype)

    def resolve(
        self, resolver: Resolver, beta: float, granularity: str = "layer", acting: Collection[str] | None = None
    ) -> Resolution:
        """Apply ``resolver`` to the parameters ``acting`` (default: all named); the plain sum to the others."""
        table = self.table()
        chosen = [i for i, name in enumerate(self.names) if acting is None or name in acting]
        _, index, groups = grouped(
            [self.names[i] for i in chosen], each(table, lambda column: column[chosen]), granularity
        )
        a_group, b_group = resolver(groups, beta)
        a, b = (
            torch.ones(len(self.names), dtype=torch.float64),
            torch.full((len(self.names),), beta, dtype=torch.float64),
        )
        a[chosen], b[chosen] = a_group[index], b_group[index]
        self.apply(a, b)
        return Resolution(table, a, b)


@dataclass(frozen=True)
class Resolution:
    """What one update measured and did, per named parameter: the table [K] and the weights a, b [K], float64."""

    table: GradientTable
    a: Tensor
    b: Tensor


def grouped(names: Sequence[str], table: GradientTable, granularity: str) -> tuple[list[str], Tensor, GradientTable]:
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


def tappable(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose weights among ``names`` can be split by response inside a batch."""
    return row_preserving(model, linear_modules(model, names), lambda ids: model(input_ids=ids, use_cache=False))


def sum_of_rows(x: Tensor, b: Tensor, transposed: bool, at_once: int) -> tuple[Tensor, Tensor]:
    """Gradient of a block of rows and the sum of its rows' squared norms, from the products of ``at_once`` rows."""
    total: Tensor | None = None
    squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in chunks(len(x), at_once):
        products = weight_gradients(x[rows], b[rows], transposed)
        squares = squares + square(products)
        piece = products.sum(0, dtype=wide(products.dtype)) if len(products) > 1 else products[0]
        total = piece.to(wide(piece.dtype)) if total is None else total.add_(piece)
    assert total is not None
    return total, squares


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums of a dtype are kept in: float32 for the half-precision ones."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def square(x: Tensor) -> Tensor:
    """||x||^2, 0-d float64."""
    return dot(x, x)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """<x, y>, 0-d float64, accumulated in float64."""
    return (x * y).sum(dtype=torch.float64)
