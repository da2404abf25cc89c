"""Matrix products whose results are added up over microbatches, in float32 where their factors have half precision.

A GPU's products can give float32 results of half-precision factors, and add them to what is there already: nothing is
rounded in between, and the sum is read and written once instead of a product, a cast and an addition.
"""

from __future__ import annotations

import functools
import logging

import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)
HALF = (torch.bfloat16, torch.float16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums of a dtype are kept in: float32 for the half-precision ones."""
    return torch.float32 if dtype in HALF else dtype


def product(left: Float[Tensor, "_ _"], right: Float[Tensor, "_ _"]) -> Float[Tensor, "_ _"]:
    """``left @ right`` of factors of one dtype, in what their sums are kept in."""
    if left.dtype in HALF and widens(left.device.type, left.dtype):
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).to(wide(left.dtype))


def add_product(total: Float[Tensor, "_ _"], left: Float[Tensor, "_ _"], right: Float[Tensor, "_ _"]) -> None:
    """Add ``left @ right`` to ``total`` in place; both factors have one dtype, the total its own or a wider one."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.dtype == torch.float32 and left.dtype in HALF and widens(left.device.type, left.dtype):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.add_(left @ right)


@functools.cache
def widens(device: str, dtype: torch.dtype) -> bool:
    """Whether products there give float32 results of such factors, alone and added in place; tried once on numbers."""
    if device == "cpu":
        return False
    left, right = torch.eye(16, device=device, dtype=dtype) * 3, torch.full((16, 16), 5, device=device, dtype=dtype)
    total = torch.full((16, 16), 2.0**-12, device=device)  # beside 15 it would be lost in half precision
    try:
        alone = torch.mm(left, right, out_dtype=torch.float32)
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError, TypeError) as error:
        log.info("products of %s are rounded before they are added (%s)", dtype, type(error).__name__)
        return False
    return bool((alone == 15).all()) and bool((total == 15 + 2.0**-12).all())
