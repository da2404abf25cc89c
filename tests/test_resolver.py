"""Each rule against closed forms: reference vectors, limits, Theorem 5.1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pcr_run.resolver import GradientTable, Projection, make, variance_alpha

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def table(pla: Tensor, sta: Tensor, var_pla: Tensor | float = 1.0, var_sta: Tensor | float = 1.0) -> GradientTable:
    """The table of gradients [K, d]."""
    pp, ps, ss = ((x * y).sum(-1) for x, y in ((pla, pla), (pla, sta), (sta, sta)))
    return GradientTable(pp, ps, ss, *(torch.as_tensor(v).to(pp).expand_as(pp) for v in (var_pla, var_sta)))


def conflicting(seed: int, k: int = 50, d: int = 4) -> tuple[Tensor, Tensor]:
    """K pairs of random gradients with a negative inner product."""
    g = torch.Generator().manual_seed(seed)
    pla, sta = torch.randn(2, k, d, generator=g, dtype=torch.float64)
    return pla, torch.where((pla * sta).sum(-1, keepdim=True) < 0, sta, -sta)


# Vectors that the public implementations agree on: g_pla, g_sta, PCGrad's sum and the one-sided projection at three
# strengths (without the penalty's own gradient).
VECTORS = [
    ((1, 0), (-1, 1), (0.5, 1.5), {1: (0.5, 0.5), 0.5: (0.75, 0.25), 0.25: (0.875, 0.125)}),
    ((3, 4), (-2, 0), (-1.28, 4.96), {1: (0, 4), 0.5: (1.5, 4), 0.25: (2.25, 4)}),
    (
        (1, 2, 0),
        (1, -1, 1),
        (38 / 15, 16 / 15, 4 / 3),
        {1: (4 / 3, 5 / 3, 1 / 3), 0.5: (7 / 6, 11 / 6, 1 / 6), 0.25: (13 / 12, 23 / 12, 1 / 12)},
    ),
    ((1, 0), (1, 1), (2, 1), {1: (1, 0), 0.5: (1, 0), 0.25: (1, 0)}),
    ((1, 0), (-2, 0), (0, 0), {1: (0, 0), 0.5: (0.5, 0), 0.25: (0.75, 0)}),
]


@pytest.mark.parametrize(("pla", "sta", "pcgrad", "projected"), VECTORS)
def test_reference_vectors(pla: tuple, sta: tuple, pcgrad: tuple, projected: dict[float, tuple]) -> None:
    pla, sta = f64(*pla)[None], f64(*sta)[None]
    a, b = make("pcgrad")(table(pla, sta), 1.0)
    assert_close(a * pla + b * sta, f64(*pcgrad)[None], **EXACT)
    for alpha, expected in projected.items():
        # beta = 0 leaves the projection alone; PCR's variances give the same alpha
        for rule, variances in ((make("fixed", alpha=alpha), (1, 1)), (make("pcr"), (alpha, 1 - alpha))):
            a, b = rule(table(pla, sta, *variances), 0.0)
            assert_close(a * pla + b * sta, f64(*expected)[None], **EXACT)


def test_pcgrad_projects_both_gradients_off_each_other() -> None:
    pla, sta = conflicting(0)
    beta = 0.3
    second = beta * sta
    inner = (pla * second).sum(-1, keepdim=True)
    one = pla - inner / second.square().sum(-1, keepdim=True) * second
    two = second - inner / pla.square().sum(-1, keepdim=True) * pla
    a, b = make("pcgrad")(table(pla, sta), beta)
    assert_close(a[:, None] * pla + b[:, None] * sta, one + two, **EXACT)


def test_literal_pcr_is_equation_15_with_and_without_conflict() -> None:
    pla, sta = conflicting(1)
    sta[::2] *= -1
    along = (pla * sta).sum(-1, keepdim=True) / sta.square().sum(-1, keepdim=True) * sta
    a, b = make("pcr_literal")(table(pla, sta, 3.0, 1.0), 0.7)
    kept = 0.25  # lambda_pla / (lambda_pla + lambda_sta) with precisions 1/3 and 1
    assert_close(a[:, None] * pla + b[:, None] * sta, (pla - along) + kept * along, **EXACT)


@pytest.mark.parametrize("beta", [0.0, 0.04, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_inner_product_of_the_update_with_the_anchor(alpha: float, beta: float) -> None:
    pla, sta = conflicting(2)
    t = table(pla, sta, alpha, 1 - alpha)
    for name in ("fixed", "pcr"):
        rule = make(name, alpha=alpha) if name == "fixed" else make(name)
        assert isinstance(rule, Projection)
        assert_close(rule.alpha(t, beta), torch.full_like(t.ps, alpha), **EXACT)
        a, b = rule(t, beta)
        assert_close(a * t.ps + b * t.ss, (1 - alpha) * t.ps + beta * t.ss, **EXACT)


@pytest.mark.parametrize("rule", [make("fixed", alpha=0.0), make("pcr"), make("pcr", alpha_scale="relative")])
def test_strength_zero_is_the_plain_sum_exactly(rule: Projection) -> None:
    pla, sta = conflicting(3)
    t = table(pla, sta, 0.0, 1.0)
    assert torch.equal(rule(t, 0.04)[0], torch.ones_like(t.pp))
    assert torch.equal(rule(t, 0.04)[1], torch.full_like(t.pp, 0.04))


def test_alpha_is_the_share_of_the_variance() -> None:
    pla, sta = conflicting(4, k=6)
    t = table(pla, sta, f64(0, 0, 1, 2, 3, 1e300), f64(0, 1, 0, 2, 1, 1e300))
    assert variance_alpha(t).tolist() == [0, 0, 1, 0.5, 0.75, 0.5]
    rising = table(pla, sta, f64(0, 1e-9, 1, 2, 5, 1e9), 1.0)
    assert (variance_alpha(rising).diff() > 0).all()


def test_a_negative_estimate_of_a_variance_counts_as_zero() -> None:
    pla, sta = conflicting(4, k=3)
    assert variance_alpha(table(pla, sta, f64(-1, 1, -1), f64(1, -1, -1))).tolist() == [0, 1, 0]


def test_pcgrad_needs_both_directions() -> None:
    no_plasticity = GradientTable(*f64(0, -1, 1, 1, 1)[:, None])
    a, b = make("pcgrad")(no_plasticity, 0.3)
    assert (a.item(), b.item()) == (1.0, 0.3)


def test_alpha_scales_compare_different_variances() -> None:
    pla, sta = conflicting(5)
    t, beta = table(pla, sta, 2.0, 3.0), 0.1
    for scale, vp, vs in (("raw", 2, 3), ("beta", 2, 3 * beta**2), ("relative", 2 / t.pp, 3 / t.ss)):
        rule = make("pcr", alpha_scale=scale)
        assert isinstance(rule, Projection)
        assert_close(rule.alpha(t, beta), (vp / (vp + vs)) * torch.ones_like(t.pp), **EXACT)


def test_projections_report_no_strength_where_they_do_not_act() -> None:
    pla, sta = conflicting(6)
    for rule in (make("fixed"), make("pcr")):
        assert isinstance(rule, Projection)
        assert torch.equal(rule.alpha(table(pla, -sta), 0.1), torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize(("sigma_pla", "sigma_sta"), [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0)])
def test_theorem_5_1_by_monte_carlo(sigma_pla: float, sigma_sta: float) -> None:
    """Risk of the estimate of z* that the update's component along the axis is; every draw is a group of the table."""
    g = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, 100_000, generator=g, dtype=torch.float64)
    z, e = sigma_sta * z, sigma_pla * e
    seen = (z + e)[z + e < 0]  # the gate; the distribution is symmetric, so the risk given a conflict is the risk
    z = z[z + e < 0]
    t = table(torch.stack([seen, torch.ones_like(seen)], -1), f64(1, 0).expand(len(seen), 2))
    t = GradientTable(t.pp, t.ps, t.ss, sigma_pla**2 * torch.ones_like(t.pp), sigma_sta**2 * torch.ones_like(t.pp))

    def losses(name: str, **options: float) -> Tensor:
        a, b = make(name, **options)(t, 0.0)
        return (a * t.ps + b * t.ss - z).square()

    def z_score(values: Tensor, expected: float) -> float:
        return ((values.mean() - expected) / (values.std() / len(values) ** 0.5)).item()

    best = losses("pcr")
    assert abs(z_score(best, 1 / (sigma_pla**-2 + sigma_sta**-2))) < 4
    for alpha in (0.0, 0.35, 0.65, 1.0):
        other = losses("fixed", alpha=alpha)
        assert abs(z_score(other, alpha**2 * sigma_sta**2 + (1 - alpha) ** 2 * sigma_pla**2)) < 4
        assert z_score(other - best, 0.0) > 4  # paired: PCR's alpha is strictly better than any of these


def test_a_table_has_columns_of_one_shape_in_float64() -> None:
    x = f64(1, 2)
    with pytest.raises(ValueError, match=r"ss.*\[2\].*\[1\]"):
        GradientTable(x, x, x[:1], x, x)
    with pytest.raises(ValueError, match=r"var_pla.*float64"):
        GradientTable(x, x, x, x.float(), x)
