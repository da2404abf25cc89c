"""Laws that all rules share, and those that each declares."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pcr_run.resolver import GradientTable, Resolver, make

RULES: dict[str, tuple[str, dict]] = {
    "none": ("none", {}),
    "pcgrad": ("pcgrad", {}),
    "fixed": ("fixed", {"alpha": 0.3}),
    "hard": ("fixed", {"alpha": 1.0}),
    "pcr": ("pcr", {}),
    "pcr_beta": ("pcr", {"alpha_scale": "beta"}),
    "pcr_relative": ("pcr", {"alpha_scale": "relative"}),
    "pcr_literal": ("pcr_literal", {}),
    "mgs": ("mgs", {}),
    "mgda": ("mgda", {}),
    "cagrad": ("cagrad", {}),
    "gradvac": ("gradvac", {"rate": 0.5}),
    "gac": ("gac", {}),
    "shrink": ("shrink", {}),
    **{
        f"torchjd_{weighting}": ("torchjd", {"weighting": weighting, **options})
        for weighting, options in {
            "alignedmtl": {},
            "cagrad": {"c": 0.5},
            "dualproj": {},
            "fairgrad": {"alpha": 1.0},
            "gradvac": {},
            "imtlg": {},
            "mgda": {},
            "pcd": {},
            "pcgrad": {},
            "upgrad": {},
        }.items()
    },
}
LAWS = ("sum_without_conflict", "joint_scale", "penalty_scale")
FACTORS = [10.0**k for k in range(-15, 16, 3)]

every_rule = pytest.mark.parametrize("key", RULES)


def fresh(key: str) -> Resolver:
    """A new instance, since some have a state."""
    name, options = RULES[key]
    return make(name, **options)


def near(key: str) -> dict[str, float]:
    """Closed forms are exact to rounding; TorchJD's solvers are iterative."""
    return {"rtol": 1e-4, "atol": 1e-5} if key.startswith("torchjd") else {"rtol": 1e-10, "atol": 0.0}


def columns(*rows: tuple[float, ...]) -> GradientTable:
    return GradientTable(*torch.tensor(rows, dtype=torch.float64).T)


def gradients(seed: int, k: int = 8, d: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    pla, sta = torch.randn(2, k, d, generator=g, dtype=torch.float64)
    return pla, sta


def table(pla: Tensor, sta: Tensor) -> GradientTable:
    """The table of gradients [K, d], with variances that differ from group to group."""
    pp, ps, ss = ((x * y).sum(-1) for x, y in ((pla, pla), (pla, sta), (sta, sta)))
    share = torch.linspace(0.1, 3, len(pp), dtype=torch.float64)
    return GradientTable(pp, ps, ss, share * pp, share.flip(0) * ss)


def scaled(t: GradientTable, pla: float, sta: float) -> GradientTable:
    """The table of (pla * g_pla, sta * g_sta)."""
    return GradientTable(pla**2 * t.pp, pla * sta * t.ps, sta**2 * t.ss, pla**2 * t.var_pla, sta**2 * t.var_sta)


def breaks_sum_without_conflict(key: str) -> list[str]:
    pla, sta = gradients(0)
    rule = fresh(key)
    rule(table(sta, sta + 0.1 * pla), 0.3)  # a rule with a state has seen something
    a, b = rule(table(pla, torch.where((pla * sta).sum(-1, keepdim=True) < 0, -sta, sta)), 0.3)
    same = torch.allclose(a, torch.ones_like(a), **near(key)) and torch.allclose(
        b, torch.full_like(b, 0.3), **near(key)
    )
    return [] if same else [f"{a} {b}"]


def breaks_joint_scale(key: str) -> list[str]:
    t = table(*gradients(1))
    a, b = fresh(key)(t, 0.3)
    out = []
    for c in FACTORS:
        ac, bc = fresh(key)(scaled(t, c, c), 0.3)
        if not (torch.allclose(ac, a, **near(key)) and torch.allclose(bc, b, **near(key))):
            out.append(f"{c}: {a} {ac} {b} {bc}")
    return out


def breaks_penalty_scale(key: str) -> list[str]:
    t = table(*gradients(2))
    a, b = fresh(key)(t, 0.3)
    out = []
    for c in FACTORS:
        ac, bc = fresh(key)(scaled(t, 1.0, c), 0.3 / c)
        if not (torch.allclose(ac, a, **near(key)) and torch.allclose(bc * c, b, **near(key))):
            out.append(f"{c}: {a} {ac} {b} {bc * c}")
    return out


@every_rule
@pytest.mark.parametrize("law", LAWS)
def test_a_rule_declares_exactly_the_laws_that_hold_for_it(key: str, law: str) -> None:
    broken = {
        "sum_without_conflict": breaks_sum_without_conflict,
        "joint_scale": breaks_joint_scale,
        "penalty_scale": breaks_penalty_scale,
    }[law](key)
    declared = law in fresh(key).holds
    assert (not broken) == declared, broken[:1]
    assert fresh(key).holds <= set(LAWS)


@every_rule
def test_the_update_turns_with_the_gradients(key: str) -> None:
    pla, sta = gradients(3)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    a, b = fresh(key)(table(pla, sta), 0.3)
    a_turned, b_turned = fresh(key)(table(pla @ rotation, sta @ rotation), 0.3)
    assert_close(a_turned, a, **near(key))
    assert_close(b_turned, b, **near(key))


@every_rule
def test_groups_are_resolved_independently(key: str) -> None:
    t = table(*gradients(4))
    a, b = fresh(key)(t, 0.3)
    for k in range(len(t.pp)):
        one = GradientTable(*(column[k : k + 1] for column in astuple(t)))
        a_one, b_one = fresh(key)(one, 0.3)
        assert torch.equal(torch.cat([a_one, b_one]), torch.stack([a[k], b[k]]))


@every_rule
def test_a_table_of_no_groups_gives_no_weights(key: str) -> None:
    nothing = torch.zeros(0, dtype=torch.float64)
    a, b = fresh(key)(GradientTable(*[nothing] * 5), 0.3)
    assert a.shape == b.shape == (0,)


EXTREME = st.sampled_from([0.0, 1e-300, 1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300, math.inf, math.nan])
ENTRY = st.one_of(EXTREME, st.floats(0, 1e300))
ROW = st.tuples(ENTRY, ENTRY.flatmap(lambda x: st.sampled_from([x, -x])), ENTRY, ENTRY, ENTRY)


@every_rule
@settings(max_examples=40, deadline=None)
@given(row=ROW, beta=st.sampled_from([0.0, 1e-8, 0.04, 1.0, 100.0]))
def test_weights_are_finite_for_any_table_at_all(key: str, row: tuple[float, ...], beta: float) -> None:
    a, b = fresh(key)(columns(row), beta)
    assert a.dtype == b.dtype == torch.float64
    assert a.shape == b.shape == (1,)
    assert a.isfinite().all()
    assert b.isfinite().all()


@every_rule
@pytest.mark.parametrize(
    "row",
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 1, 0),
        (1, -1, 0, 1, 1),
        (math.nan, -1, 1, 1, 1),
        (1, math.nan, 1, 1, 1),
        (1, -1, math.nan, 1, 1),
        (math.inf, -math.inf, math.inf, 1, 1),
        (1e300, -1e300, 1e-300, 1, 1),
    ],
)
def test_without_a_conflict_axis_the_update_is_the_plain_sum(key: str, row: tuple[float, ...]) -> None:
    a, b = fresh(key)(columns(row), 0.3)
    assert (a.item(), b.item()) == (1.0, 0.0 if key == "pcr_literal" else 0.3)


@every_rule
def test_without_a_penalty_only_projections_act(key: str) -> None:
    pla, sta = gradients(5)
    t = table(pla, sta)
    a, b = fresh(key)(t, 0.0)
    assert torch.equal(a, torch.ones_like(a))
    acts = fresh(key).anchors
    assert bool((b != 0).any()) == acts


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("scale", ["raw", "beta", "relative"])
def test_variances_that_are_not_finite_leave_the_plain_sum(bad: float, scale: str) -> None:
    t = columns((1, -0.5, 1, bad, 1), (1, -0.5, 1, 1, bad), (1, -0.5, 1, bad, bad), (1, -0.5, 1, 0, 0))
    a, b = make("pcr", alpha_scale=scale)(t, 0.3)
    assert a.tolist() == [1.0] * 4
    assert b.tolist() == [0.3] * 4


@every_rule
def test_a_rule_says_what_it_reads(key: str) -> None:
    rule = fresh(key)
    t = table(*gradients(6))
    blind = GradientTable(t.pp, t.ps, t.ss, torch.full_like(t.pp, math.nan), torch.full_like(t.pp, math.nan))
    same = all(torch.equal(x, y) for x, y in zip(fresh(key)(t, 0.3), fresh(key)(blind, 0.3), strict=True))
    assert rule.needs_variance != same
    empty = columns((math.nan,) * 5)
    plain = [w.tolist() for w in rule(empty, 0.3)] == [[1.0], [0.3]]
    assert rule.needs_table or plain
    assert rule.needs_table == (key != "none")
