"""The reference policy: where it stands at each step, what a checkpoint brings back, the KL in the reward."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from test_learner import G, N, P, batch, drift, llama, make, written
from torch import Tensor

from pcr_run.learner.learner import Learner
from pcr_run.learner.reference import Kind
from pcr_run.schema.learner import reference_holds

pytestmark = pytest.mark.usefixtures("float64_throughout")


def fresh(**options: object) -> Learner:
    torch.manual_seed(0)
    return make(llama(tie_word_embeddings=True), "pcr", lr=3e-3, **options)


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("initial", lambda past: past[0]),
        ("old", lambda past: past[-1]),
        ("every:2", lambda past: past[(len(past) - 1) // 2 * 2]),
        ("ema:0.25", lambda past: _average(past, 0.25)),
    ],
)
def test_it_stands_where_it_should(kind: str, expected: Callable[[list[Tensor]], Tensor]) -> None:
    learner = fresh(reference=kind)
    past: list[Tensor] = []
    for step in range(1, 6):
        past.append(weights(learner.model))  # before each step so far
        learner.update(batch(), step)
        torch.testing.assert_close(weights(learner.reference), expected(past), rtol=1e-12, atol=1e-15)
    assert not torch.equal(past[0], past[-1])


def _average(past: list[Tensor], rate: float) -> Tensor:
    out = past[0]
    for policy in past:
        out = (1 - rate) * out + rate * policy
    return out


@pytest.mark.parametrize("kind", ["initial", "old", "every:3", "ema:0.3"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_goes_on_bit_for_bit(kind: str, stop: int) -> None:
    whole = fresh(reference=kind)
    for step in range(1, 6):
        whole.update(batch(), step)
    first = fresh(reference=kind)
    for step in range(1, stop + 1):
        first.update(batch(), step)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    second = fresh(reference=kind)
    second.model.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    for step in range(stop + 1, 6):
        second.update(batch(), step)
    assert torch.equal(weights(whole.model), weights(second.model))
    assert torch.equal(weights(whole.reference), weights(second.reference))


@pytest.mark.parametrize("kind", ["initial", "old"])
def test_what_needs_no_room_in_a_checkpoint_takes_none(kind: str) -> None:
    assert fresh(reference=kind).state_dict()["reference"] == {}


@pytest.mark.parametrize("text", ["every:0", "every:-1", "every:", "ema:0", "ema:1.5", "ema:", "ema:x", "olds", ""])
def test_other_kinds_are_refused(text: str) -> None:
    assert not reference_holds(text)


@pytest.mark.parametrize(
    ("text", "kind"), [("every:10", Kind(10, 1.0)), ("ema:1e-3", Kind(1, 1e-3)), ("ema:1", Kind(1, 1.0))]
)
def test_kinds_are_read(text: str, kind: Kind) -> None:
    assert reference_holds(text)
    assert Kind.of(text) == kind


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_the_divergence_of_a_response_is_the_sum_over_its_tokens(kl: str) -> None:
    torch.manual_seed(0)
    learner = make(llama(), kl=kl, kl_in="reward")
    drift(learner.model)
    found = learner.divergence(batch(), step=1)
    ones = dataclasses.replace(batch(), kl=torch.ones_like(batch().kl))
    for i in range(N):
        row = slice(i, i + 1)
        mean = written(learner.model, learner.reference, ones, kl, row)[1].item()
        assert found[i].item() == pytest.approx(mean * ones.mask[i].sum().item(), rel=1e-9)


def test_in_the_reward_the_loss_has_no_penalty() -> None:
    torch.manual_seed(0)
    model = llama()
    learner = make(model, kl_in="reward")
    drift(model)
    clone = copy.deepcopy(model)
    metrics, _ = learner.update(batch(), step=1)
    written(clone, learner.reference, batch(), "k3")[0].backward()
    for (_, mine), (_, theirs) in zip(model.named_parameters(), clone.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-13)
    assert "loss_sta" not in metrics
    assert P * G == N
