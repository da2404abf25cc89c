"""GVPO: its loss as the paper writes it, in float64, is the sum of the two that are kept apart."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from test_learner import BETA, TEMPERATURE, G, N, P, batch, drift, llama, make
from test_lora import adapted
from torch import Tensor, nn
from torch.testing import assert_close

from pcr_run.gradients.groups import group_name
from pcr_run.learner.batch import Batch
from pcr_run.learner.objective import excess, token_weights, variance

GVPO = {"surrogate": "reinforce", "kl": "variance", "advantage": "dr_grpo", "aggregation": "sequence_sum"}


def whole(model: nn.Module, data: Batch) -> Tensor:
    """Log-probs of the responses [N]."""
    logits = model(input_ids=data.ids, use_cache=False).logits[:, :-1] / TEMPERATURE
    return (logits.log_softmax(-1).gather(-1, data.ids[:, 1:, None])[..., 0] * data.mask[:, 1:]).sum(1)


def centred(values: Tensor) -> Tensor:
    grouped = values.view(P, G)
    return (grouped - grouped.mean(1, keepdim=True)).flatten()


def written(logp: Tensor, base: Tensor, data: Batch) -> Tensor:
    """Half the squared distance of centred implicit rewards to centred rewards, a mean over responses, over beta."""
    return (centred(BETA * (logp - base)) - data.advantages).square().sum() / 2 / N / BETA


def rewarded() -> Batch:
    data = batch()
    return dataclasses.replace(data, advantages=centred(data.advantages.double()))


def test_the_term_is_half_the_variance_within_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    logp, ref = (-torch.rand(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 1, 2, 5])[:, None]
    logp.requires_grad_()
    log_ratio = torch.where(mask, logp - ref, 0.0)
    loss = log_ratio.sum(1).view(2, 3).var(1, correction=0).mean() / 2
    loss.backward()
    found = excess(log_ratio.detach(), 3)
    assert_close(found.view(2, 3).sum(1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    term = variance(logp.detach(), ref, token_weights(mask, "sequence_sum", 9), found[:, None].expand_as(mask))
    assert_close(term.loss, loss.detach(), rtol=1e-12, atol=1e-14)
    assert_close(term.cotangent, logp.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("engine", ["portable", "twin"])
@pytest.mark.parametrize("microbatch", [1, G, N])
@pytest.mark.parametrize("resolver", ["none", "fixed"])
def test_both_gradients_add_up_to_the_papers_loss(resolver: str, microbatch: int, engine: str) -> None:
    torch.manual_seed(0)
    model, data = llama(), rewarded()
    learner = make(model, resolver, "all", engine=engine, microbatch=microbatch, **GVPO)
    drift(model)
    clone = copy.deepcopy(model)
    metrics, rows = learner.update(data, step=1)

    with torch.no_grad():
        base = whole(learner.reference, data)
    names, weights = zip(*clone.named_parameters(), strict=True)
    logp = whole(clone, data)
    total = torch.autograd.grad(written(logp, base, data), weights, retain_graph=True)
    reward, penalty = -(data.advantages * logp).sum() / N, centred(logp - base).square().sum() / 2 / N
    g_pla, g_sta = (torch.autograd.grad(each, weights, retain_graph=True) for each in (reward, penalty))
    found = dict(model.named_parameters())
    for name, one in zip(names, total, strict=True):
        assert_close(found[name].grad, one, rtol=1e-9, atol=1e-12)  # `fixed` with alpha 0 is the plain sum
    assert metrics["loss_pla"] == pytest.approx(reward.item(), rel=1e-9)
    assert metrics["loss_sta"] == pytest.approx(penalty.item(), rel=1e-9)
    assert len(rows) == len({group_name(name, "layer") for name in names})
    held = centred(logp - base).detach()  # coefficients of the stability part, as advantages are of the other
    each = [torch.autograd.grad(held[i] * logp[i], weights, retain_graph=True) for i in range(N)]
    for row in rows:
        members = [i for i, name in enumerate(names) if group_name(name, "layer") == row["group"]]
        for key, pair in {"pp": (g_pla, g_pla), "ps": (g_pla, g_sta), "ss": (g_sta, g_sta)}.items():
            product = sum((pair[0][i] * pair[1][i]).sum().item() for i in members)
            assert row[key] == pytest.approx(product, rel=1e-8, abs=1e-14)
        flat = torch.stack([torch.cat([g[i].flatten() for i in members]) for g in each]).view(P, G, -1)
        assert row["var_sta"] == pytest.approx(flat.var(1).sum().item() * G / N**2, rel=1e-8)


@pytest.mark.usefixtures("float64_throughout")
def test_every_inner_update_has_the_coefficients_of_its_own_weights() -> None:
    torch.manual_seed(0)
    model, data = llama(), rewarded()
    learner = make(model, epochs=2, lr=1e-2, **GVPO)
    before: list[nn.Module] = []
    step = learner._step

    def recorded(*arguments: Any) -> Any:
        before.append(copy.deepcopy(model))
        return step(*arguments)

    learner._step = recorded  # type: ignore[method-assign]
    learner.update(data, step=1)
    with torch.no_grad():
        base = whole(learner.reference, data)
    assert_close(whole(before[0], data), base)
    assert (whole(before[1], data) - base).abs().min() > 1e-3
    weights = list(before[1].parameters())
    last = torch.autograd.grad(written(whole(before[1], data), base, data), weights)
    for weight, one in zip(model.parameters(), last, strict=True):
        assert_close(weight.grad, one, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64_throughout")
def test_an_adapter_is_compared_with_the_model_without_it() -> None:
    torch.manual_seed(0)
    plain, data = llama(), rewarded()
    model = adapted(copy.deepcopy(plain))
    clone = copy.deepcopy(model)
    make(model, **GVPO).update(data, step=1)
    with torch.no_grad():
        base = whole(plain, data)
    named = {name: weight for name, weight in clone.named_parameters() if weight.requires_grad}
    total = torch.autograd.grad(written(whole(clone, data), base, data), list(named.values()))
    for name, one in zip(named, total, strict=True):
        assert_close(dict(model.named_parameters())[name].grad, one, rtol=1e-9, atol=1e-12)
