"""Products that are added up: the same numbers by every way, and nothing lost to half precision where a device can."""

import pytest
import torch
from conftest import DEVICE
from torch import nn

from pcr_run.gradients import products
from pcr_run.learner.head import accumulate

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EXACT = {torch.float64: 1e-13, torch.float32: 1e-5}


def factors(dtype: torch.dtype, inner: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(24, inner, generator=generator), torch.randn(inner, 16, generator=generator)
    return left.to(DEVICE, dtype), right.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_wide_and_so_is_what_it_is_added_to(dtype: torch.dtype) -> None:
    left, right = factors(dtype)
    expected = left.double() @ right.double()
    near = EXACT.get(dtype, 1e-5 if products.widens(DEVICE.type, dtype) else 2e-2) * expected.abs().max().item()
    found = products.product(left, right)
    assert found.dtype == products.wide(dtype)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=near)
    total = torch.full_like(found, 2.0)
    products.add_product(total, left, right)
    products.add_product(total, left, right)
    torch.testing.assert_close(total.double(), 2 + 2 * expected, rtol=0, atol=3 * near)


def test_factors_that_are_transposed_and_parts_of_others_do_as_well() -> None:
    left, right = factors(torch.bfloat16)
    part, other = left[:, 8:32], right.T.contiguous().T[8:32]
    found, total = products.product(part, other), torch.zeros(24, 16, device=DEVICE)
    products.add_product(total, part, other)
    torch.testing.assert_close(found, part.float() @ other.float(), rtol=0, atol=0.1)
    torch.testing.assert_close(total, found, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("autocast", "dtype"), [(False, torch.float32), (False, torch.float64), (True, torch.float32)])
def test_the_heads_gradient_is_that_of_its_blocks_together(autocast: bool, dtype: torch.dtype) -> None:
    head = nn.Linear(6, 11, device=DEVICE, dtype=dtype)
    h, at = torch.randn(9, 6, device=DEVICE, dtype=dtype), torch.randn(9, 11, device=DEVICE, dtype=dtype)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
        for block in (slice(0, 4), slice(4, 5), slice(5, 9)):
            accumulate(head, at[block], h[block])
    near = 0.1 if autocast else EXACT[dtype] * 10
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == head.bias.grad.dtype == dtype
    torch.testing.assert_close(head.weight.grad, at.T @ h, rtol=0, atol=near)
    torch.testing.assert_close(head.bias.grad, at.sum(0), rtol=0, atol=near)


def test_a_frozen_head_gets_none() -> None:
    head = nn.Linear(6, 11, bias=False, device=DEVICE).requires_grad_(False)
    accumulate(head, torch.randn(4, 11, device=DEVICE), torch.randn(4, 6, device=DEVICE))
    assert head.weight.grad is None


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a GPU's products widen")
def test_a_gpu_widens() -> None:
    assert products.widens("cuda", torch.bfloat16)
