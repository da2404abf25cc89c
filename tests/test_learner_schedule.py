"""The learning rate counts the optimizer steps done."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from test_learner import batch, llama, make


@pytest.mark.parametrize("resolver", ["none", "pcr"])
def test_a_skipped_first_update_neither_warns_nor_moves_the_schedule(resolver: str) -> None:
    torch.manual_seed(0)
    learner = make(llama(), resolver, schedule="linear", warmup=0.5)  # of 10 updates
    bad = batch()
    bad.advantages[0] = math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = [learner.update(data, step)[0]["lr"] for step, data in enumerate((bad, batch(), batch()), 1)]
    assert rates == pytest.approx([2e-4, 2e-4, 4e-4])
