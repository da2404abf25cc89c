"""Gradients of a tapped layer's weight and bias in one microbatch, piece by piece, with what the variance needs.

Each objective comes as the moments that take its gradient, and its cotangents at the layer's output (None: they are 0).
``metric``: of the parameter, in its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pcr_run.gradients.moments import Moments, Unit, square
from pcr_run.gradients.norms import ShortRows, gram_is_cheaper, products_at_once, sum_of_rows, weight_gradient
from pcr_run.ragged import Ragged

Objective = tuple[Moments, Float[Tensor, "tokens fan_out"] | None]


def add_weight(
    x: Float[Tensor, "tokens fan_in"],
    transposed: bool,
    objectives: Sequence[Objective],
    unit: Unit,
    layout: Ragged,
    metric: Float[Tensor, "_ _"] | None,
) -> None:
    """Of inputs and cotangents; ``transposed``: the weight is [in, out]."""
    by_row, step = unit.part == 1, min(unit.piece, len(layout))
    fan_in, fan_out = x.shape[-1], next(b.shape[-1] for _, b in objectives if b is not None)
    grams = None
    if by_row and metric is None and gram_is_cheaper(layout, fan_in, fan_out):  # a metric weighs a product's entries
        grams = ShortRows(x, layout)
    for weight, b in objectives:
        if b is None:
            for start in range(0, len(layout), step):
                weight.add(None, min(step, len(layout) - start), by_row, metric)
            continue
        if grams is not None:
            weight.add_squares(grams.squares(b))
        for start in range(0, len(layout), step):
            stop = min(start + step, len(layout))
            tokens = slice(layout.borders[start], layout.borders[stop])
            if by_row and grams is None:
                rows = layout.only(range(start, stop))
                piece, squares = sum_of_rows(x[tokens], b[tokens], rows, transposed, products_at_once(x, b), metric)
                weight.add_squares(squares)
            else:
                piece = weight_gradient(x[tokens], b[tokens], transposed)
            weight.add(piece, stop - start, by_row, metric)


def add_bias(
    objectives: Sequence[Objective], unit: Unit, layout: Ragged, metric: Float[Tensor, " fan_out"] | None
) -> None:
    """Of cotangents alone."""
    step = min(unit.piece, len(layout))
    for bias, b in objectives:
        per_row = None
        if b is not None:
            per_row = layout.pad(b).sum(1)
            if unit.part == 1:
                bias.add_squares(square(per_row, metric))
        for start in range(0, len(layout), step):
            stop = min(start + step, len(layout))
            piece = None if per_row is None else per_row[start:stop].sum(0)
            bias.add(piece, stop - start, unit.part == 1, metric)
