"""TorchJD's weightings as rules, and ours against TorchJD's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from pcr_run.errors import ConfigError
from pcr_run.resolver import GradientTable, make


def gramians(seed: int, k: int = 100) -> tuple[GradientTable, Tensor]:
    """A table of K random gradient pairs and its Gramians [K, 2, 2] at beta = 1."""
    g = torch.Generator().manual_seed(seed)
    jacobians = torch.randn(k, 2, 4, generator=g, dtype=torch.float64)
    gram = jacobians @ jacobians.transpose(1, 2)
    return GradientTable(gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1], *torch.ones(2, k, dtype=torch.float64)), gram


def test_our_pcgrad_is_torchjd_s() -> None:
    table, gram = gramians(0)
    beta = 0.3
    rows = torch.tensor([1.0, beta], dtype=torch.float64)
    expected = torch.stack([aggregation.PCGradWeighting()(rows[:, None] * g * rows) for g in gram])
    a, b = make("pcgrad")(table, beta)
    assert_close(torch.stack([a, b / beta], -1), expected, rtol=1e-10, atol=0)
    assert_close(torch.stack(make("torchjd", weighting="pcgrad")(table, beta)), torch.stack([a, b]))


def test_pcgrad_of_two_is_upgrad_without_regularisation() -> None:
    table, _ = gramians(1)
    upgrad = make("torchjd", weighting="upgrad", projector=QuadprogProjector(norm_eps=0.0, reg_eps=0.0))
    assert_close(torch.stack(upgrad(table, 0.3)), torch.stack(make("pcgrad")(table, 0.3)), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("weighting", "options"),
    [
        ("upgrad", {"pref_vector": [1.0, 1.0]}),
        ("upgrad", {"pref_vector": [1.0, 3.0]}),
        ("dualproj", {"pref_vector": [2.0, 1.0]}),
        ("alignedmtl", {"pref_vector": [1.0, 1.0], "scale_mode": "rmse"}),
        ("mgda", {"epsilon": 1e-6}),
        ("cagrad", {"c": 0.4}),
        ("imtlg", {}),
        ("fairgrad", {"alpha": 2.0}),
        ("gradvac", {"beta": 0.1}),
        ("pcd", {"tau": 0.1}),
    ],
)
def test_weights_are_those_of_torchjd_on_the_gramian_of_both_rows(weighting: str, options: dict) -> None:
    table, gram = gramians(2, k=10)
    beta = 0.5
    rows = torch.tensor([1.0, beta], dtype=torch.float64)
    kinds = {name.lower(): getattr(aggregation, name) for name in aggregation.__all__}
    ours = {key: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for key, v in options.items()}
    scaled = [rows[:, None] * g * rows for g in gram]
    expected = torch.stack([kinds[weighting](**ours).gramian_weighting(g / g.trace()) for g in scaled])
    a, b = make("torchjd", weighting=weighting, **options)(table, beta)
    assert_close(torch.stack([a, b / beta], -1), expected, rtol=1e-4, atol=1e-6)


def test_the_preference_defaults_to_the_plain_sum() -> None:
    table, gram = gramians(3)
    kind = make("torchjd", weighting="dualproj")
    free = gram[:, 0, 1] >= 0
    a, b = kind(table, 0.3)
    assert_close(a[free], torch.ones_like(a[free]), rtol=1e-9, atol=0)
    assert_close(b[free], torch.full_like(b[free], 0.3), rtol=1e-9, atol=0)


def test_short_gradients_are_resolved_like_long_ones() -> None:
    table, _ = gramians(4)
    tiny = GradientTable(*(1e-24 * c for c in (table.pp, table.ps, table.ss)), table.var_pla, table.var_sta)
    rule = make("torchjd", weighting="upgrad")
    assert_close(torch.stack(rule(tiny, 1.0)), torch.stack(rule(table, 1.0)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weighting", ["gradvac", "pcd"])
def test_state_is_kept_by_group_and_survives_a_checkpoint(weighting: str, tmp_path: Path) -> None:
    first, second = gramians(5, k=6)[0], gramians(6, k=6)[0]
    rule = make("torchjd", weighting=weighting)
    rule(first, 0.5)
    torch.save(rule.state_dict(), tmp_path / "state.pt")
    expected = rule(second, 0.5)
    resumed = make("torchjd", weighting=weighting)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.stack(resumed(second, 0.5)), torch.stack(expected))
    forgetful = make("torchjd", weighting=weighting)(second, 0.5)
    assert not torch.equal(torch.stack(forgetful), torch.stack(expected))


def test_resolving_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    make("torchjd", weighting="pcgrad")(gramians(7)[0], 0.3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"weighting": "krum", "n_byzantine": 0}, "resolver.options"),
        ({"weighting": "nosuch"}, "resolver.weighting"),
        ({"weighting": "mean"}, "resolver.weighting"),
        ({"weighting": "cagrad"}, "resolver.options"),
        ({"weighting": "cagrad", "c": -1.0}, "resolver.options"),
        ({"weighting": "upgrad", "c": 1.0}, "resolver.options.c"),
        ({"weighting": "upgrad", "pref_vector": [1.0, 1.0, 1.0]}, "resolver.options"),
        ({"weighting": "upgrad", "pref_vector": "heavy"}, "resolver.options"),
    ],
)
def test_bad_options_name_their_key(options: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("torchjd", **options)
    assert caught.value.key == key


def test_a_missing_torchjd_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ConfigError, match=r"pip install pcr-run\[torchjd\]"):
        make("torchjd")


def test_a_weighting_without_its_solver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quadprog", None)
    with pytest.raises(ConfigError, match=r"quadprog.*pip install pcr-run\[torchjd\]") as caught:
        make("torchjd", weighting="upgrad")
    assert caught.value.key == "resolver.weighting"
    make("torchjd", weighting="mgda")
