"""Losses and cotangents against autograd of the written formulas, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pcr_run.errors import ConfigError
from pcr_run.learner.objective import advantages, exact_kl, importance, penalty, token_weights, zero_advantage
from pcr_run.learner.surrogate import Clip, SurrogateTerm, clip

AGGREGATIONS = ("sequence_mean", "token_mean", "constant")
EXACT = {"rtol": 1e-10, "atol": 1e-14}


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def batch(seed: int, n: int = 6, t: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs now and before, advantages [N, 1] of both signs and 0, and a ragged mask with an empty row."""
    g = torch.Generator().manual_seed(seed)
    logp = -3 * torch.rand(n, t, generator=g, dtype=torch.float64)
    old = logp + 0.4 * torch.randn(n, t, generator=g, dtype=torch.float64)
    advantage = torch.randn(n, 1, generator=g, dtype=torch.float64)
    advantage[1] = 0
    lengths = torch.randint(1, t + 1, (n, 1), generator=g)
    lengths[0], lengths[2] = t, 0
    return logp, old, advantage, torch.arange(t) < lengths


def surrogate(logp: Tensor, old: Tensor, advantage: Tensor, weight: Tensor, low: float, high: float) -> SurrogateTerm:
    return clip(logp, logp - old, advantage, weight, Clip(low, high))


def written_surrogate(logp: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    ratio = torch.exp(logp - old)
    return torch.min(ratio * advantage, torch.clip(ratio, 1 - low, 1 + high) * advantage)


def written_penalty(logp: Tensor, ref: Tensor, kind: str) -> Tensor:
    log_ratio = logp - ref
    return {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": torch.exp(-log_ratio) + log_ratio - 1}[kind]


def written_mean(per_token: Tensor, mask: Tensor, aggregation: str, limit: int) -> Tensor:
    """The aggregations as loops over responses."""
    rows = [row[keep] for row, keep in zip(per_token, mask, strict=True)]
    match aggregation:
        case "sequence_mean":
            return sum((row.mean() for row in rows if len(row)), torch.zeros(())) / len(rows)
        case "token_mean":
            return torch.cat(rows).mean()
        case "sequence_sum":
            limit = 1
    return sum((row.sum() for row in rows), torch.zeros(())) / (len(rows) * limit)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.35), (0.0, 0.0)])
def test_surrogate_equals_autograd_of_its_formula(aggregation: str, low: float, high: float) -> None:
    for seed in range(5):
        logp, old, advantage, mask = batch(seed)
        logp.requires_grad_()
        written = -written_mean(written_surrogate(logp, old, advantage, low, high), mask, aggregation, 12)
        written.backward()
        weight = token_weights(mask, aggregation, 12)
        term = surrogate(logp.detach(), old, advantage, weight, low, high)
        assert_close(term.loss, written.detach(), **EXACT)
        assert_close(term.cotangent, logp.grad, **EXACT)
        stopped = mask & (logp.grad == 0) & (advantage != 0)
        assert torch.equal(term.clipped, stopped)
        assert stopped.any()


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_penalty_equals_autograd_of_its_formula(kind: str, aggregation: str) -> None:
    logp, ref, _, mask = batch(3)
    logp.requires_grad_()
    written = written_mean(written_penalty(logp, ref, kind), mask, aggregation, 12)
    written.backward()
    term = penalty(logp.detach(), ref, token_weights(mask, aggregation, 12), kind)
    assert_close(term.loss, written.detach(), **EXACT)
    assert_close(term.cotangent, logp.grad, **EXACT)


def test_corrected_k3_equals_autograd_of_ratio_times_k3() -> None:
    logp, old, _, mask = batch(4)
    ref = old - 0.3
    logp.requires_grad_()
    loss = written_mean((logp - old).exp() * written_penalty(logp, ref, "k3"), mask, "token_mean", 12)
    loss.backward()
    weight = token_weights(mask, "token_mean", 12)
    term = penalty(logp.detach(), ref, weight, "k3_corrected", logp.detach() - old)
    assert_close(term.loss, loss.detach(), **EXACT)
    assert_close(term.cotangent, logp.grad, **EXACT)


@pytest.mark.parametrize(("kind", "unbiased"), [("k3_corrected", True), ("k3", False), ("k2", False)])
def test_the_corrected_estimator_alone_has_the_gradient_of_the_kl_off_policy(kind: str, unbiased: bool) -> None:
    g = torch.Generator().manual_seed(6)
    logits, ref, sampler = torch.randn(3, 5, 8, generator=g, dtype=torch.float64)
    logp, ref_logp, old = logits.log_softmax(-1), ref.log_softmax(-1), sampler.log_softmax(-1)
    at = penalty(logp, ref_logp, old.exp(), kind, logp - old).cotangent  # every token, by the sampler's probability
    by_logits = at - at.sum(-1, keepdim=True) * logp.exp()
    exact = exact_kl(logits, ref, torch.ones(5, dtype=torch.float64)).cotangent
    assert torch.allclose(by_logits, exact, rtol=1e-10, atol=1e-14) == unbiased


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_importance_ratios_out_of_bounds_are_bounded_or_masked(mode: str, level: str) -> None:
    difference = f64(0.1, 0.5, -0.9, 0.2, 0.0, -0.4).view(2, 3)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weights, outside = importance(difference, mask, level, 1.3, 0.6, mode)
    for i in range(2):
        for t in range(3):
            exponent = difference[i, t] if level == "token" else difference[i][mask[i]].sum()
            ratio = math.exp(exponent)
            bounded = min(max(ratio, 0.6), 1.3) if mode == "truncate" else ratio * (0.6 <= ratio <= 1.3)
            assert weights[i, t].item() == pytest.approx(bounded if mask[i, t] else 1.0, rel=1e-12)
    assert outside == pytest.approx(2 / 5 if level == "token" else 0.0)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_an_importance_ratio_that_is_no_number_is_not_hidden(mode: str, level: str) -> None:
    """Its update must be found to be not finite; an infinite one is out of bounds like any other."""
    difference = f64(math.nan, 0.0, math.inf, 0.0, -math.inf, 0.0).view(3, 2)
    weights, _ = importance(difference, torch.ones(3, 2, dtype=torch.bool), level, 1.3, 0.6, mode)
    assert weights[0, 0].isnan()
    assert weights[1:, 0].tolist() == ([1.3, 0.6] if mode == "truncate" else [0.0, 0.0])


def test_exact_kl_equals_autograd_of_its_formula() -> None:
    g = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, 11, generator=g, dtype=torch.float64)).requires_grad_()
    ref = 3 * torch.randn(7, 11, generator=g, dtype=torch.float64)
    weight = torch.rand(7, generator=g, dtype=torch.float64)
    p, q = logits.softmax(-1), ref.softmax(-1)
    written = (weight * (p * (p / q).log()).sum(-1)).sum()
    written.backward()
    term = exact_kl(logits.detach(), ref, weight)
    assert_close(term.loss, written.detach(), **EXACT)
    assert_close(term.cotangent, logits.grad, **EXACT)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_estimators_have_the_exact_kl_as_their_expectation(kind: str) -> None:
    g = torch.Generator().manual_seed(1)
    logits, ref = torch.randn(2, 5, 8, generator=g, dtype=torch.float64)
    logp, ref_logp = logits.log_softmax(-1), ref.log_softmax(-1)
    expected = penalty(logp, ref_logp, logp.exp(), kind).loss  # every token, weighted by its probability
    assert_close(expected, exact_kl(logits, ref, torch.ones(5, dtype=torch.float64)).loss, **EXACT)


@pytest.mark.parametrize("advantage", [1.3, -1.3])
@pytest.mark.parametrize("edge", [0.75, 1.25])
def test_on_the_very_edge_of_the_clip_the_gradient_still_flows(advantage: float, edge: float) -> None:
    old = f64(-1.0)
    logp = (old + math.log(edge)).requires_grad_()
    low = high = abs(torch.exp(logp.detach() - old).item() - 1)  # so that the ratio is the edge to the last bit
    loss = -written_surrogate(logp, old, f64(advantage), low, high).sum()
    loss.backward()
    term = surrogate(logp.detach(), old, f64(advantage), f64(1.0), low, high)
    assert term.cotangent.item() != 0
    assert not term.clipped.any()
    assert_close(term.cotangent, logp.grad, **EXACT)


@pytest.mark.parametrize(
    ("advantage", "ratio", "clipped"), [(1, 1.3, True), (1, 0.7, False), (-1, 0.7, True), (-1, 1.3, False)]
)
def test_the_clip_only_stops_what_would_go_further(advantage: float, ratio: float, clipped: bool) -> None:
    term = surrogate(f64(math.log(ratio)), f64(0.0), f64(advantage), f64(1.0), 0.2, 0.2)
    assert term.clipped.item() is clipped
    assert term.cotangent.item() == pytest.approx(0 if clipped else -advantage * ratio, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_tokens_of_weight_zero_give_exactly_zero_whatever_they_hold(bad: float) -> None:
    weight, value = f64(0.0, 0.0, 0.5), f64(bad, -1.0, -1.0)
    other = f64(-1.0, bad, -1.5)
    for term in [
        surrogate(value, other, f64(bad, 1.0, 1.0), weight, 0.2, 0.2),
        *(penalty(value, other, weight, kind) for kind in ("k1", "k2", "k3")),
    ]:
        assert term.loss.isfinite()
        assert term.cotangent[:2].tolist() == [0.0, 0.0]
    kl = exact_kl(torch.stack([value, f64(1, 2, 3)]), torch.stack([other, f64(3, 2, 1)]), f64(0.0, 1.0))
    assert kl.loss.isfinite()
    assert kl.cotangent[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e2, 1e3, 1e30, math.inf])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("advantage", [2.0, 0.0, -2.0])
def test_extreme_ratios_never_make_a_nan(dtype: torch.dtype, gap: float, sign: int, advantage: float) -> None:
    one, zero = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    term = surrogate(sign * gap * one, zero, advantage * one, one, 0.2, 0.2)
    assert term.loss.isfinite()
    assert term.cotangent.isfinite().all()
    k3 = penalty(sign * gap * one, zero, one, "k3")
    assert k3.loss >= 0
    assert k3.cotangent.isfinite().all()


def test_k3_keeps_its_digits_close_to_the_reference() -> None:
    d = torch.tensor([1e-5], dtype=torch.float32)
    term = penalty(-d, torch.zeros(1), torch.ones(1), "k3")
    assert_close(term.loss.item(), 5e-11, rtol=0.05, atol=0)
    assert_close(term.cotangent.item(), -1e-5, rtol=1e-4, atol=0)


def test_masked_vocabulary_entries_add_nothing_to_the_exact_kl() -> None:
    logits, ref = f64(1.0, 0.5, -0.3)[None], f64(0.1, 0.9, 0.2)[None]
    hole = f64(-math.inf)[None]
    small = exact_kl(logits, ref, f64(1.0))
    wide = exact_kl(torch.cat([logits, hole], 1), torch.cat([ref, hole], 1), f64(1.0))
    assert_close(wide.loss, small.loss, **EXACT)
    assert_close(wide.cotangent, torch.cat([small.cotangent, f64(0.0)[None]], 1), **EXACT)


def test_terms_of_a_cut_minibatch_add_up() -> None:
    logp, old, advantage, mask = batch(7)
    weight = token_weights(mask, "sequence_mean", 12)
    whole = surrogate(logp, old, advantage, weight, 0.2, 0.2)
    parts = [surrogate(logp[r], old[r], advantage[r], weight[r], 0.2, 0.2) for r in (slice(0, 1), slice(1, 6))]
    assert_close(sum(p.loss for p in parts), whole.loss, **EXACT)
    assert torch.equal(torch.cat([p.cotangent for p in parts]), whole.cotangent)


def test_outputs_have_the_dtype_of_the_log_probs_and_losses_are_float64() -> None:
    logp = torch.randn(4)
    weight = f64(0.1, 0.2, 0.3, 0.4)
    assert surrogate(logp, logp, f64(1, 2, 3, 4), weight, 0.2, 0.2).cotangent.dtype == torch.float32
    assert penalty(logp, logp, weight, "k3").cotangent.dtype == torch.float32
    term = exact_kl(torch.randn(4, 5), torch.randn(4, 5), weight)
    assert (term.cotangent.dtype, term.loss.dtype) == (torch.float32, torch.float64)


def test_standard_advantages_are_trl_s() -> None:
    rewards = f64(1, 0, 0, 0, 0.5, 0.25, 1, 1).view(2, 4)
    centred = rewards - rewards.mean(1, keepdim=True)
    std = (centred.square().sum(1, keepdim=True) / 3).sqrt()
    assert_close(advantages(rewards, "standard"), centred / (std + 1e-4), **EXACT)
    assert_close(advantages(rewards, "dr_grpo"), centred, **EXACT)


@pytest.mark.parametrize("kind", ["standard", "dr_grpo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=50, deadline=None)
@given(value=st.floats(-1e6, 1e6, width=32), size=st.integers(1, 9))
def test_equal_rewards_have_an_advantage_of_exactly_zero(
    kind: str, dtype: torch.dtype, value: float, size: int
) -> None:
    rewards = torch.full((1, size), value, dtype=dtype)
    assert zero_advantage(rewards).tolist() == [True]
    assert advantages(rewards, kind).tolist() == [[0.0] * size]


def test_a_group_is_zero_advantage_only_when_all_its_rewards_are_equal() -> None:
    assert zero_advantage(f64(1, 1, 1, 0, 0, 1e-12).view(2, 3)).tolist() == [True, False]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_of_nothing_are_zero(aggregation: str) -> None:
    assert token_weights(torch.zeros(3, 4, dtype=torch.bool), aggregation, 4).tolist() == [[0.0] * 4] * 3


def test_empty_rows_still_count_in_the_mean_over_responses() -> None:
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert token_weights(mask, "sequence_mean", 5).tolist() == [[0.25, 0.25], [0, 0]]
    assert token_weights(mask, "token_mean", 5).tolist() == [[0.5, 0.5], [0, 0]]
    assert token_weights(mask, "constant", 5).tolist() == [[0.1, 0.1], [0, 0]]


def test_unknown_kinds_name_their_key() -> None:
    x = f64(1.0)
    for key, call in {
        "learner.advantage": lambda: advantages(x[None], "z"),
        "learner.aggregation": lambda: token_weights(x[None], "sum", 1),
        "learner.kl": lambda: penalty(x, x, x, "k4"),
    }.items():
        with pytest.raises(ConfigError, match=key):
            call()
