"""Surrogates against autograd of their papers' formulas in float64: on tensors, and through whole models."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from test_learner import BETA, G, N, P, T, batch, drift, llama, make, written
from test_objective import EXACT, written_mean
from test_objective import batch as tokens
from torch import Tensor
from torch.testing import assert_close

from pcr_run.gradients.groups import group_name, select
from pcr_run.learner.objective import token_weights
from pcr_run.learner.surrogate import BY_RESPONSE, SURROGATES, Clip, by_response, clip, even
from pcr_run.schema import LearnerConfig, RolloutConfig, clip_range
from pcr_run.schema.learner import CLIP_RANGES

LOW, HIGH, DUAL = 0.1, 0.15, 1.3
VARIANTS: dict[str, dict[str, object]] = {
    "clip": {"surrogate": "clip", "clip_low": LOW, "clip_high": HIGH},
    "dual": {"surrogate": "clip", "clip_low": LOW, "clip_high": HIGH, "dual_clip": DUAL},
    "gspo": {"surrogate": "gspo", "clip_low": LOW, "clip_high": HIGH},
    "gspo_dual": {"surrogate": "gspo", "clip_low": LOW, "clip_high": HIGH, "dual_clip": DUAL},
    "cispo": {"surrogate": "cispo", "clip_low": LOW, "clip_high": HIGH},
    "reinforce": {"surrogate": "reinforce"},
}


def formula(name: str, logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """What a token's loss is by the papers, [rows, length], with gradients through ``logp``."""
    ratio = (logp - old).exp()
    if name == "reinforce":
        return -advantage * logp
    if name == "cispo":
        return -ratio.clip(1 - LOW, 1 + HIGH).detach() * advantage * logp
    if name.startswith("gspo"):
        mean = ((logp - old) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
        ratio = mean.exp().expand_as(logp)
    gain = torch.min(ratio * advantage, ratio.clip(1 - LOW, 1 + HIGH) * advantage)
    if "dual" in name:
        gain = torch.where(advantage < 0, torch.max(gain, DUAL * advantage), gain)
    return -gain


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant", "sequence_sum"])
@pytest.mark.parametrize("name", VARIANTS)
def test_cotangents_are_those_of_autograd(name: str, aggregation: str) -> None:
    dual = DUAL if "dual" in name else None
    for seed in range(5):
        logp, old, advantage, mask = tokens(seed)
        logp.requires_grad_()
        written_loss = written_mean(formula(name, logp, old, advantage, mask), mask, aggregation, 12)
        written_loss.backward()
        weight, now = token_weights(mask, aggregation, 12), logp.detach()
        ratio, counts = now - old, mask.sum(1)
        if name.startswith("gspo"):
            weight = even(weight, mask)
            ratio = torch.zeros_like(now).masked_scatter(mask, by_response(ratio[mask], counts))
        surrogate = SURROGATES[str(VARIANTS[name]["surrogate"])]
        term = surrogate(now, ratio, advantage, weight, Clip(LOW, HIGH, dual))
        assert_close(term.loss, written_loss.detach(), **EXACT)
        assert_close(term.cotangent, logp.grad, **EXACT)
        assert term.clipped.any() == (name != "reinforce")
        if name not in ("cispo", "reinforce"):
            assert torch.equal(term.clipped, mask & (logp.grad == 0) & (advantage != 0))


def test_the_dual_clip_bounds_the_loss_where_the_advantage_is_negative() -> None:
    ratio, advantage = torch.tensor([9.0, 9.0], dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    term = clip(ratio.log(), ratio.log(), advantage, one, Clip(0.2, 0.2, 3.0))
    assert term.loss.item() == pytest.approx(3.0 - 1.2)
    assert term.clipped.tolist() == [True, True]


def test_every_surrogate_has_a_range_and_those_of_responses_are_surrogates() -> None:
    assert set(CLIP_RANGES) == set(SURROGATES) > set(BY_RESPONSE)
    assert clip_range(LearnerConfig(surrogate="gspo")) == (3e-4, 4e-4)
    assert clip_range(LearnerConfig(surrogate="gspo", clip_high=0.1)) == (3e-4, 0.1)


def off_policy(scale: float = 0.3) -> tuple[Tensor, RolloutConfig]:
    """Differences of log-probs to the policy that sampled [N, T - 1], and a rollout that makes them matter."""
    off = scale * torch.randn(N, T - 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return off, RolloutConfig(name="hf", temperature=0.7, max_new_tokens=6, old_logprobs="engine")


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("engine", ["portable", "twin"])
@pytest.mark.parametrize("resolver", ["none", "pcr"])
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_and_variances_through_a_model(name: str, resolver: str, engine: str) -> None:
    torch.manual_seed(0)
    model = llama()
    off, rollout = off_policy()
    # Of one update alone the policy is its own old one; at a rate of 0 two are the same, and have a ratio.
    learner = make(model, resolver, "all", rollout, engine=engine, microbatch=1, epochs=2, lr=0.0, **VARIANTS[name])
    drift(model)
    clone, data = copy.deepcopy(model), batch()
    chosen, mask = data.ids[:, 1:, None], data.mask[:, 1:]
    off = off.to(mask.device)

    def logps() -> Tensor:
        return (
            (clone(input_ids=data.ids, use_cache=False).logits[:, :-1] / 0.7).log_softmax(-1).gather(-1, chosen)[..., 0]
        )

    with torch.no_grad():
        old = logps() - off
    drawn = torch.zeros(N, T, dtype=torch.float64, device=mask.device)
    drawn[:, 1:] = old
    learner._old_logprobs = lambda *_: drawn  # type: ignore[method-assign]
    metrics, rows = learner.update(dataclasses.replace(data, drawn=drawn), step=1)

    loss = formula(name, logps(), old, data.advantages[:, None].double(), mask)
    shares = (loss * mask).sum(1) / mask.sum(1) / N
    names, weights = zip(*clone.named_parameters(), strict=True)
    each = [torch.autograd.grad(share, weights, retain_graph=True) for share in shares]
    g_pla = {n: sum(g[i] for g in each) for i, n in enumerate(names)}
    g_sta = torch.autograd.grad(written(clone, learner.reference, data, "k3")[1], weights)
    assert metrics["loss_pla"] == pytest.approx(shares.sum().item(), rel=1e-9)
    assert (metrics["clip_fraction"] > 0) == (name != "reinforce")
    b = {row["group"]: row["b"] for row in rows}
    assert set(b) == {group_name(n, "layer") for n in names}
    for row in rows:
        members = [i for i, n in enumerate(names) if group_name(n, "layer") == row["group"]]
        assert row["pp"] == pytest.approx(sum(g_pla[names[i]].square().sum().item() for i in members), rel=1e-9)
        spread = 0.0
        for p in range(P):
            group = [torch.cat([each[r][i].flatten() for i in members]) for r in range(p * G, p * G + G)]
            squares = sum(g.square().sum().item() for g in group)
            spread += (G * squares - sum(group).square().sum().item()) / (G - 1)
        assert row["var_pla"] == pytest.approx(spread, rel=1e-8)
    mlp, found = set(select(model, "mlp")), dict(model.named_parameters())
    for i, n in enumerate(names):
        share = b[group_name(n, "layer")] if resolver == "pcr" and n in mlp else BETA
        assert_close(found[n].grad, g_pla[n] + share * g_sta[i], rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_an_update_makes_good_responses_more_likely(surrogate: str) -> None:
    torch.manual_seed(0)
    model, data = llama(), batch()
    learner = make(model, "pcr", surrogate=surrogate, beta=0.01, epochs=2, lr=3e-3)

    def likelihood() -> float:
        logps = (model(input_ids=data.ids).logits[:, :-1] / 0.7).log_softmax(-1).gather(-1, data.ids[:, 1:, None])
        return (logps[..., 0] * data.mask[:, 1:] * data.advantages[:, None]).sum().item()

    before = likelihood()
    learner.update(data, step=1)
    assert likelihood() > before
