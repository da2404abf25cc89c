"""Weight gradients B^T X of blocks of rows, and the squared norm of each row's, which both objectives need.

X [M, in] and B [M, out] are flat: the tokens of one row after those of the other. Norms come from Grams of a row's
tokens where rows are short (no product is formed), else from its product; both are exact. In a metric that weighs the
product's entries it comes from the product always.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pcr_run.gradients.moments import square
from pcr_run.gradients.products import product, wide
from pcr_run.ragged import Ragged, taken


def weight_gradient(
    x: Float[Tensor, "*block tokens fan_in"], b: Float[Tensor, "*block tokens fan_out"], transposed: bool
) -> Float[Tensor, "*block _ _"]:
    """B^T X in the weight's layout: [out, in]; [in, out] when ``transposed``. Of one block in float32 at least."""
    left, right = (x, b) if transposed else (b, x)
    return product(left.mT, right) if x.ndim == 2 else left.mT @ right


def token_gram(x: Float[Tensor, "rows length width"]) -> Float[Tensor, "rows length length"]:
    """Inner products of each row's tokens."""
    return x @ x.mT


def row_squares(
    x_gram: Float[Tensor, "rows length length"], b: Float[Tensor, "rows length fan_out"]
) -> Float[Tensor, " rows"]:
    """||B_i^T X_i||^2 of each row i without forming the products: sum_st (x_s . x_t)(b_s . b_t).

    ``x_gram``: ``token_gram`` of the inputs, which both objectives share. The 'ghost norm' (Goodfellow 2015; Li et al.
    2022): T^2 (in + out) multiplications a row.
    """
    return (x_gram * token_gram(b)).sum((1, 2), dtype=wide(x_gram.dtype))


OPERATIONS = {"cpu": 50}
"""Multiplications that take as long as writing a product's entry and reading it again: on a CPU what was fastest for
the embedded model and the shape of SmolLM2 (benchmarks/learner.py). Elsewhere 200, by a GPU's data sheet: 6 bytes an
entry at 3.3 TB/s take as long as 360 at 400 TFLOP/s, of which padding is a part."""
SLACK = {"cpu": 0.0}
"""How much longer than others a row may be that is padded with them: not at all on a CPU, which loses nothing by small
products; on a GPU its length once more, since each kernel has its price there."""


def gram_is_cheaper(rows: Ragged, fan_in: int, fan_out: int) -> bool:
    """Short rows: Grams of tokens cost less than a weight-sized product per row. Settled for all rows at once."""
    operations = OPERATIONS.get(rows.device.type, 200)
    return sum(n * n for n in rows.lengths) * (fan_in + fan_out) < operations * len(rows) * fan_in * fan_out


class ShortRows:
    """The rows of a microbatch, whose norms come from Grams; keeps those of their inputs."""

    def __init__(self, x: Float[Tensor, "tokens fan_in"], rows: Ragged) -> None:
        blocks = rows.blocks(SLACK.get(x.device.type, 1.0))
        self.blocks = [(where, block, token_gram(block.pad(taken(x, where)))) for where, block in blocks]

    def squares(self, b: Float[Tensor, "tokens fan_out"]) -> Float[Tensor, ""]:
        """Sum of the rows' squared norms, float64."""
        found = [row_squares(gram, block.pad(taken(b, where))) for where, block, gram in self.blocks]
        return torch.cat(found).sum(dtype=torch.float64)


def sum_of_rows(
    x: Float[Tensor, "tokens fan_in"],
    b: Float[Tensor, "tokens fan_out"],
    rows: Ragged,
    transposed: bool,
    at_once: int,
    metric: Float[Tensor, "_ _"] | None = None,
) -> tuple[Float[Tensor, "_ _"], Float[Tensor, ""]]:
    """Gradient of a block of rows and the sum of its rows' squared norms, from the products of ``at_once`` rows."""
    total: Tensor | None = None
    squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(rows), at_once):
        block = rows.only(range(start, min(start + at_once, len(rows))))
        tokens = slice(rows.borders[start], rows.borders[start + len(block)])
        products = products_of(x[tokens], b[tokens], block, transposed)
        squares = squares + square(products, metric)
        piece = products.sum(0, dtype=wide(products.dtype)) if len(products) > 1 else products[0]
        total = piece.to(wide(piece.dtype)) if total is None else total.add_(piece)
    assert total is not None
    return total, squares


def products_of(x: Tensor, b: Tensor, rows: Ragged, transposed: bool) -> Float[Tensor, "rows _ _"]:
    """The product of each row; ragged ones by one grouped kernel in bfloat16 on a GPU, else padded."""
    aligned = x.shape[-1] % 8 == b.shape[-1] % 8 == 0  # the kernel wants tokens 16 bytes apart; an adapter's may not be
    if not rows.uniform and x.is_cuda and aligned and x.dtype == b.dtype == torch.bfloat16:
        left, right = (x, b) if transposed else (b, x)
        return torch.nn.functional.grouped_mm(left.mT, right, offs=rows.ends[1:])
    return weight_gradient(rows.pad(x), rows.pad(b), transposed)


def products_at_once(x: Tensor, b: Tensor) -> int:
    """Rows whose weight-sized products are formed together: on a CPU one, which stays in its cache.

    On a GPU as many as have 2**25 entries (128 MiB in float32), since many small kernels cost most there.
    """
    return max(1, 2**25 // (x.shape[-1] * b.shape[-1])) if x.is_cuda else 1
