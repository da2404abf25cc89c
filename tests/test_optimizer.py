"""Optimizers by name: what their state takes, and that it goes on bit for bit."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch
from torch import nn

from pcr_run.configuration.check import CHOICES, extras
from pcr_run.learner.optimizer import OPTIMIZERS, make_loadable
from pcr_run.schema import Config, LearnerConfig, ResolverConfig, RolloutConfig
from pcr_run.schema.learner import STATES

EIGHT_BITS = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs pcr-run[torchao]")
NAMES = [pytest.param(name, marks=EIGHT_BITS if name == "adamw8bit" else ()) for name in OPTIMIZERS]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 256), nn.Tanh(), nn.Linear(256, 128))


def make(policy: nn.Module, name: str) -> torch.optim.Optimizer:
    return OPTIMIZERS[name](policy.parameters(), LearnerConfig(lr=1e-3))


def train(policy: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for step in steps:
        x = torch.randn(8, 128, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (policy(x) - x).square().mean().backward()
        optimizer.step()
        scheduler.step()


def size(value: torch.Tensor) -> int:
    """Bytes of a tensor, of one that is made of others too."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(size(getattr(value, name)) for name in value.__tensor_flatten__()[0] if name != "qmap")
    return value.nbytes


def test_each_name_may_be_configured_and_has_a_formula() -> None:
    assert set(CHOICES["learner.optimizer"]) == set(OPTIMIZERS) == set(STATES)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_takes_what_the_formula_says(name: str) -> None:
    policy = model()
    optimizer = make(policy, name)
    train(policy, optimizer, range(1))
    for parameter in policy.parameters():
        held = sum(size(value) for key, value in optimizer.state[parameter].items() if key != "step")
        assert held == STATES[name][0](4, parameter.numel()) * parameter.numel()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit(name: str) -> None:
    whole, first = model(), model()
    train(whole, make(whole, name), range(4))
    optimizer = make(first, name)
    train(first, optimizer, range(2))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    make_loadable(name)
    saved = torch.load(file, weights_only=True)
    second = model()
    second.load_state_dict(saved["model"])
    optimizer = make(second, name)
    optimizer.load_state_dict(saved["optimizer"])
    # A new scheduler writes the rate of its first step, as the learner's does before its own state is loaded.
    train(second, optimizer, range(2, 4))
    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@EIGHT_BITS
def test_eight_bits_follow_the_full_optimizer_closely() -> None:
    full, short = model(), model()
    train(full, make(full, "adamw"), range(20))
    train(short, make(short, "adamw8bit"), range(20))
    moved = torch.cat([(a - b).flatten() for a, b in zip(full.parameters(), model().parameters(), strict=True)])
    apart = torch.cat([(a - b).flatten() for a, b in zip(full.parameters(), short.parameters(), strict=True)])
    assert 0 < apart.norm() < 0.1 * moved.norm()


@pytest.mark.parametrize(("there", "found"), [(True, []), (False, ["learner.optimizer"])])
def test_a_missing_package_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, there: bool, found: list[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    cfg = Config(rollout=RolloutConfig(name="hf"), resolver=ResolverConfig(name="none"))
    assert list(extras.problems(cfg)) == []
    cfg.learner.optimizer = "adamw8bit"
    problems = list(extras.problems(cfg))
    assert [key for key, _ in problems] == found
    assert all("pip install 'pcr-run[torchao]'" in problem for _, problem in problems)
