"""The rules of other papers against their definitions: brute force over vectors, limits, states."""

from __future__ import annotations

import math

import pytest
import torch
from test_resolver import EXACT, conflicting, f64, table
from torch import Tensor
from torch.testing import assert_close

from pcr_run.errors import ConfigError
from pcr_run.resolver import GradientTable, make

BETA = 0.6


def pairs(seed: int) -> tuple[Tensor, Tensor]:
    """Gradients g_pla and beta g_sta [50, 4], half of them in conflict, of lengths that differ."""
    pla, sta = conflicting(seed)
    sta[::2] *= -1
    return pla * torch.linspace(0.2, 3, len(pla), dtype=torch.float64)[:, None], sta


def update(name: str, pla: Tensor, sta: Tensor, *variances: Tensor | float, **options: float) -> Tensor:
    """The update of one call, [K, d]; ``sta`` is beta g_sta."""
    t = table(pla, sta / BETA, *variances)
    a, b = make(name, **options)(t, BETA)
    return a[:, None] * pla + b[:, None] * sta / BETA


def norm(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def mixtures(pla: Tensor, sta: Tensor, steps: int = 20001) -> tuple[Tensor, Tensor]:
    """All convex combinations on a grid: weights of the first [S, 1, 1] and vectors [S, K, d]."""
    x = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None, None]
    return x, x * pla + (1 - x) * sta


def best(values: Tensor, x: Tensor) -> Tensor:
    """The weight [K] with the least value [S, K]."""
    return x.flatten()[values.argmin(0)]


def test_mgda_is_twice_the_shortest_mixture() -> None:
    pla, sta = pairs(0)
    x, mixed = mixtures(pla, sta)
    shortest = norm(mixed)[..., 0].amin(0)
    assert_close(norm(update("mgda", pla, sta))[:, 0] / 2, shortest, rtol=1e-6, atol=1e-9)
    share = best(norm(mixed)[..., 0], x)
    assert ((share > 0.01) & (share < 0.99)).any()
    assert ((share == 0) | (share == 1)).any()


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_cagrad_weighs_as_the_minimum_of_its_objective_clipped(c: float) -> None:
    pla, sta = pairs(1)
    middle = (pla + sta) / 2
    x, mixed = mixtures(pla, sta)
    share = best((mixed * middle).sum(-1) + c * norm(middle)[:, 0] * norm(mixed)[..., 0], x)[:, None]
    assert ((share > 0) & (share < 1)).any()
    pointed = share.clamp(max=0.5) * pla + (1 - share).clamp(max=0.5) * sta
    expected = 2 * (middle + c * norm(middle) * pointed / norm(pointed))
    assert_close(update("cagrad", pla, sta, c=c), expected, rtol=1e-3, atol=1e-3)


def test_cagrad_without_reach_is_the_plain_sum() -> None:
    pla, sta = pairs(2)
    assert_close(update("cagrad", pla, sta, c=0.0), pla + sta, **EXACT)


def test_gac_is_nearest_to_the_expected_plasticity() -> None:
    pla, sta = pairs(3)
    noise, other = 2.0, 5.0
    mu, _ = mixtures(pla, sta)
    error = (1 - mu[..., 0]) ** 2 * noise + mu[..., 0] ** 2 * (other + (pla - sta).square().sum(-1))
    share = best(error, mu)[:, None]
    found = update("gac", pla, sta, noise, other / BETA**2)
    assert_close(found, 2 * ((1 - share) * pla + share * sta), rtol=1e-3, atol=2e-3)


def test_gac_by_noise_alone() -> None:
    one = f64(1.0, 2.0)[None]
    assert_close(update("gac", one, one, 3.0, 3.0 / BETA**2), 2 * one, **EXACT)  # no disagreement, equal noise
    assert_close(update("gac", one, -one, 0.0, 1.0), 2 * one, **EXACT)  # plasticity without noise


def test_shrink_takes_each_gradient_by_its_signal() -> None:
    pla, sta = pairs(4)
    v, w = 0.7, 0.2
    expected = pla * (norm(pla) ** 2 / (norm(pla) ** 2 + v)) + sta * (norm(sta) ** 2 / (norm(sta) ** 2 + w))
    assert_close(update("shrink", pla, sta, f64(v), f64(w / BETA**2)), expected, **EXACT)
    assert_close(update("shrink", pla, sta, 0.0, -1.0), pla + sta, **EXACT)


def test_gradvac_gives_each_gradient_the_target_cosine() -> None:
    pla, sta = pairs(5)
    rule, t, rate = make("gradvac", rate=0.3), table(pla, sta / BETA), 0.3
    cosine = (pla * sta).sum(-1, keepdim=True) / norm(pla) / norm(sta)
    target = torch.zeros_like(cosine)
    for _ in range(3):
        low = cosine < target
        sine, aim = (1 - cosine**2).sqrt(), (1 - target**2).sqrt()
        turn = (target * sine - cosine * aim) / aim
        one = torch.where(low, pla + norm(pla) / norm(sta) * turn * sta, pla)
        two = torch.where(low, sta + norm(sta) / norm(pla) * turn * pla, sta)
        reached = (one * sta).sum(-1, keepdim=True) / norm(one) / norm(sta)
        assert_close(reached[low], target[low], rtol=1e-9, atol=1e-12)
        a, b = rule(t, BETA)
        assert_close(a[:, None] * pla + b[:, None] * sta / BETA, one + two, **EXACT)
        target = (1 - rate) * target + rate * cosine
    assert bool((target != 0).all())


def test_gradvac_begins_as_pcgrad_and_goes_on_from_its_state() -> None:
    pla, sta = pairs(6)
    assert_close(update("gradvac", pla, sta), update("pcgrad", pla, sta), **EXACT)
    whole, first, second = (make("gradvac") for _ in range(3))
    t, u = table(pla, sta), table(sta, pla + sta)
    whole(t, BETA)
    first(t, BETA)
    second.load_state_dict(first.state_dict())  # type: ignore[attr-defined]
    for x, y in zip(whole(u, BETA), second(u, BETA), strict=True):
        assert torch.equal(x, y)


def test_gradvac_learns_nothing_from_groups_without_an_axis() -> None:
    rule = make("gradvac", rate=0.5)
    t = GradientTable(*f64(1, math.nan, 1, 1, 1)[:, None])
    rule(t, BETA)
    assert rule.state_dict()["target"].tolist() == [0.0]  # type: ignore[attr-defined]


def test_mgs_is_pcgrad_on_every_tensor() -> None:
    pla, sta = pairs(7)
    assert torch.equal(update("mgs", pla, sta), update("pcgrad", pla, sta))


@pytest.mark.parametrize(
    ("name", "option", "value"), [("cagrad", "c", 1.0), ("cagrad", "c", -0.1), ("gradvac", "rate", 0)]
)
def test_options_out_of_range_are_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"resolver\.options\.{option}"):
        make(name, **{option: value})
