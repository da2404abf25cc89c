"""Two gradients and their variances from one forward pass, and an update made of them in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, nullcontext
from enum import Enum, auto
from functools import partial
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcr_run.distributed.shards import entire, local
from pcr_run.distributed.whole import Weights, Whole
from pcr_run.gradients.cut import Context, Cotangents, Cut, Segment
from pcr_run.gradients.moments import Moments, Resolution, Unit, each, grouped, measured
from pcr_run.gradients.pieces import add_bias, add_weight
from pcr_run.gradients.taps import Sink, tap, tappable
from pcr_run.ragged import Ragged
from pcr_run.resolver import GradientTable

Forward = Callable[[], Tensor]
Head = Callable[[Tensor], Cotangents]
Rule = Callable[[GradientTable, float], tuple[Tensor, Tensor]]
"""A resolver: weights (a, b) of the two gradients from a table and beta, one of each per group."""

Metric = Callable[[str], Tensor]
"""Weights D of the inner product sum_k D_k x_k y_k of a named parameter's gradients; in shards where it is."""


class _Pass(Enum):
    """Which cotangent is on its way down."""

    FIRST = auto()  # that of L_sta, which waits in each tap for the second
    SECOND = auto()  # that of the sum
    ALONE = auto()  # beta times that of L_sta, where there is no other


class TwoGradients:
    """Collects g_pla and g_sta of chosen parameters over the microbatches of one update.

    ``names``: parameters to keep the two gradients of; without any, a microbatch costs an ordinary backward pass.
    ``rows``: responses in the update, N = P * G, prompt-major. ``group``: G. ``unit``: see Unit. Microbatches come in
    order, each with whole groups or a part of one. ``layers``: of the model (see ``cut.cuttable``), to carry both
    cotangents down layer by layer, with ``recompute`` of each one's activations in ``context``; without layers they go
    through the whole graph, one after the other. Memory: one extra copy of the named parameters for g_sta; one more
    per objective while a group is split over microbatches. ``weights``: where the model is in shards; then each rank
    adds some of the rows, whole groups, and all ranks as many microbatches; one without rows takes part in the sums.
    ``metric``: of all products and norms; it is asked for again wherever it is needed, so that no copy of it is kept.
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
        layers: Sequence[nn.Module] = (),
        recompute: bool = False,
        context: Context = nullcontext,
        weights: Weights | None = None,
        metric: Metric | None = None,
    ) -> None:
        self.names, self.rows, self.metric = list(names), rows, metric
        self.unit = Unit.of(unit, rows, group, microbatch) if names else Unit(rows, rows)
        self._tapped = tappable(model, self.names) if tapped is None else tapped
        by_tap = {f"{path}.{leaf}" for path in self._tapped for leaf in ("weight", "bias")}
        self._by_tap = [name for name in self.names if name in by_tap]
        self._dense = [name for name in self.names if name not in by_tap]
        self._owner: Weights = weights or Whole(model)
        self._loose = [name for name in self._by_tap if name in self._owner.loose]
        spread = self._owner.spread and self.unit.whole == rows
        parameters = self._owner.parameters
        self._pla = {name: Moments(parameters[name], self.unit, spread) for name in self.names}
        self._sta = {name: Moments(parameters[name], self.unit, spread) for name in self.names}
        self._cut = Cut(layers, recompute, context) if layers else None
        self._anchor = torch.zeros((), device=self._owner.device, requires_grad=True)
        self._pass, self._beta = _Pass.SECOND, 0.0
        self._waiting: dict[str, Tensor] = {}  # cotangents of the first pass, until the second one comes by
        self._layout: Ragged | None = None
        self._seen = 0

    @property
    def max_microbatch(self) -> int:
        """Most rows in one microbatch: parameters that are no plain matrix weight are only split by it."""
        return self.unit.part if self._dense else self.rows

    def __enter__(self) -> TwoGradients:
        self._entered = ExitStack()
        self._entered.enter_context(self._owner.update(self._by_tap, self._leave))  # taps make their gradients
        for path, module in self._tapped.items():
            self._entered.enter_context(tap(module, self._anchor, self._receive(path)))
        if self._cut is not None:
            self._entered.enter_context(self._cut)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._entered.__exit__(kind, error, tb)
        self._waiting.clear()

    def backward(self, pla: Tensor, sta: Tensor, beta: float, rows: int) -> None:
        """Add one microbatch of ``rows`` responses: scalar losses ``pla`` and ``sta`` on one graph."""
        losses = torch.stack([pla, sta])
        self._pull(losses, Cotangents(losses.new_tensor([1.0, beta]), losses.new_tensor([0.0, 1.0])), beta, rows)

    def add(self, forward: Forward, head: Head, beta: float, layout: Ragged, ends: bool | None = None) -> None:
        """Add one microbatch: what ``forward`` gives, and what the losses say of it by ``head``.

        ``layout``: its rows as the model's modules see them; ``ends``: see ``Moments``.
        """
        for moments in (*self._pla.values(), *self._sta.values()):
            moments.ends = ends
        output = forward()
        self._layout = layout
        at = head(output.detach())
        with torch.autocast(output.device.type, enabled=False):  # gradients keep the dtype that they come in
            self._pull(output, at, beta, len(layout))

    def _pull(self, output: Tensor, at: Cotangents, beta: float, rows: int) -> None:
        """Carry the cotangents down, segment by segment, that of L_sta first: its pass computes no weight gradient."""
        if rows > self.max_microbatch:
            raise ValueError(f"{rows} rows at once, but {self._dense[0]} allows only {self.max_microbatch}")
        total, sta, alone = at.total, at.sta, at.total is None
        if alone:
            assert sta is not None
            if beta > 0:
                total, sta = beta * sta, None
            else:  # g_pla is 0 and counts for nothing in the sum either, but its zeros must be there
                total, alone = torch.zeros_like(sta), False
        self._beta = beta
        dense_total: list[Tensor | None] = [None] * len(self._dense)
        dense_sta = list(dense_total)
        segments = [Segment(None, lambda: output)] if self._cut is None else self._cut.take(output)
        for segment in segments:
            with self._owner.down(segment.layers if self._cut else None):
                dense = [self._owner.now(name) for name in self._dense]
                for parameter in dense:
                    parameter.grad = None
                out = segment.output()
                if not out.requires_grad:
                    break
                leaf = [] if segment.leaf is None else [segment.leaf]
                down: Tensor | None = None
                if sta is not None:
                    self._pass = _Pass.FIRST
                    wanted = [self._anchor, *leaf, *dense]
                    found = list(torch.autograd.grad(out, wanted, sta, retain_graph=True, allow_unused=True))[1:]
                    down = found.pop(0) if leaf else None
                    dense_sta = [_sum(a, b) for a, b in zip(dense_sta, found, strict=True)]
                self._pass = _Pass.ALONE if alone else _Pass.SECOND
                torch.autograd.backward(out, total)
                dense_total = [_sum(a, p.grad) for a, p in zip(dense_total, dense, strict=True)]
                for parameter in dense:
                    parameter.grad = None
            if segment.leaf is None:
                break
            total, sta = segment.leaf.grad, down
            segment.leaf.grad = None
        self._anchor.grad = None
        for name, found_total, from_sta in zip(self._dense, dense_total, dense_sta, strict=True):
            metric = self._entire(name)
            if alone:
                pla, from_sta = None, None if found_total is None else found_total / beta
            else:
                pla = _sum(found_total, None if from_sta is None else -beta * from_sta)
            self._pla[name].add(pla, rows, metric=metric)
            self._sta[name].add(from_sta, rows, metric=metric)
        for name in (*self._dense, *self._loose):
            self._scatter(name)
        self._layout = None
        self._seen += rows

    def _receive(self, path: str) -> Sink:
        module = self._tapped[path]
        transposed = not isinstance(module, nn.Linear)  # Conv1D keeps [in, out]
        weight, bias = f"{path}.weight", f"{path}.bias"
        own = [name for name in (weight, bias) if name in self._pla]

        def sink(x: Tensor, cotangent: Tensor, lent: bool) -> None:
            if self._pass is _Pass.FIRST:
                self._waiting[path] = cotangent.clone() if lent else cotangent
                return
            layout = Ragged((x.shape[1],) * len(x), x.device) if self._layout is None else self._layout
            metric = {name: self._entire(name) for name in own}  # by all ranks, whether they have rows or not
            if not len(layout):
                return
            if self._pass is _Pass.ALONE:
                pla, sta = None, cotangent / self._beta
            else:
                sta = self._waiting.pop(path)
                pla = torch.sub(cotangent, sta, alpha=self._beta)
            x = x.to(cotangent.dtype).flatten(0, -2)
            flat = [(self._pla, None if pla is None else pla.flatten(0, -2)), (self._sta, sta.flatten(0, -2))]
            for name in own:
                objectives = [(moments[name], b) for moments, b in flat]
                if name == weight:
                    add_weight(x, transposed, objectives, self.unit, layout, metric[name])
                else:
                    add_bias(objectives, self.unit, layout, metric[name])

        return sink

    def _entire(self, name: str) -> Tensor | None:
        """The metric of a whole parameter, from all ranks, since the gradients of their own rows are whole."""
        return None if self.metric is None else entire(self.metric(name).to(self._owner.device))

    def _own(self, name: str) -> Tensor | None:
        """This rank's shard of it, where its shard of the parameter is."""
        return None if self.metric is None else local(self.metric(name))

    def _leave(self, name: str, _parameter: nn.Parameter) -> bool:
        """A block is done: what its taps made is summed over the ranks; what is dense was, row by row."""
        if name in self._by_tap:
            self._scatter(name)
        return name in self._pla

    def _scatter(self, name: str) -> None:
        metric = self._own(name)
        for moments in (self._pla[name], self._sta[name]):
            moments.leave(partial(self._owner.scatter, name), metric)

    def table(self) -> GradientTable:
        """Gramian entries and variances of each named parameter, float64 [len(names)]; call before ``apply``."""
        seen = int(self._owner.over_ranks(torch.tensor(self._seen)))
        if seen != self.rows:
            raise ValueError(f"the update has {self.rows} rows, but {seen} came")
        found = ((self._pla[name], self._sta[name], self._own(name)) for name in self.names)
        return measured(found, self.unit, self._owner.over_ranks)

    def plasticity(self) -> dict[str, Tensor]:
        """g_pla of each named parameter; call before ``apply``."""
        return {name: self._pla[name].total for name in self.names}

    def stability(self) -> dict[str, Tensor]:
        """g_sta of each named parameter."""
        return {name: self._sta[name].total for name in self.names}

    def apply(self, a: Float[Tensor, " names"], b: Float[Tensor, " names"]) -> None:
        """Set ``.grad`` of each named parameter to a * g_pla + b * g_sta, in place."""
        for name, a_i, b_i in zip(self.names, a.tolist(), b.tolist(), strict=True):
            self._owner.give(name, self._pla.pop(name).total.mul_(a_i).add_(self._sta[name].total, alpha=b_i))

    def resolve(
        self, resolver: Rule, beta: float, granularity: str = "layer", acting: Collection[str] | None = None
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


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is 0."""
    return b if a is None else a if b is None else a + b
