"""Formulas over a block of logits, compiled and as they stand, against float64."""

import logging

import pytest
import torch
from torch.nn.functional import log_softmax

from pcr_run.model import fused


def block(rows: int, scale: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return scale * torch.randn(rows, 101, generator=generator), torch.randint(101, (rows,), generator=generator)


@pytest.fixture(params=["as it stands", "compiled"])
def way(request):
    return fused.compiled if request.param == "compiled" else lambda formula: formula


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_log_probs_entropies_and_probabilities(way, rows) -> None:
    logits, targets = block(rows)
    before = logits.clone()
    logp, entropy, probabilities = way(fused.log_softmax)(logits, targets)
    exact = log_softmax(logits.double(), -1)
    assert torch.allclose(logp.double(), exact.gather(-1, targets[:, None])[:, 0], atol=1e-5)
    rounding = 16 * torch.finfo(torch.float32).eps * logits.abs().max()  # the entropy is a difference of such logits
    assert torch.allclose(entropy.double(), -(exact.exp() * exact).sum(-1), atol=rounding.item(), rtol=0)
    assert torch.allclose(probabilities.double(), exact.exp(), atol=1e-6)
    assert torch.allclose(way(fused.target_logprobs)(logits, targets), logp, atol=1e-6)
    assert logits.equal(before)


def test_autocast_does_not_round_the_entropy() -> None:
    logits, targets = block(7)
    plain = fused.log_softmax(logits, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused.log_softmax(logits, targets)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_large_logits_stay_finite(way) -> None:
    logits, targets = block(3, scale=1e30)
    assert all(torch.isfinite(each).all() for each in way(fused.log_softmax)(logits, targets))


def test_what_cannot_be_compiled_runs_as_it_stands(caplog, monkeypatch) -> None:
    def broken(*_: object, **__: object):
        raise RuntimeError("no compiler here")

    def doubled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b

    monkeypatch.setattr(torch, "compile", lambda formula, **_: broken)
    with caplog.at_level(logging.INFO):
        assert fused.compiled(doubled)(torch.ones(1), torch.ones(1)) == 2
        assert fused.compiled(doubled)(torch.ones(1), torch.ones(1)) == 2
    assert caplog.text.count("doubled is not compiled (RuntimeError)") == 1


def test_an_error_of_the_formula_itself_is_its_own() -> None:
    with pytest.raises(RuntimeError):
        fused.on(torch.device("cpu"), fused.target_logprobs)(torch.ones(2, 3), torch.tensor([7, 8]))
