"""Rules by name: options, errors, and rules that a user brings."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pcr_run.errors import ConfigError
from pcr_run.resolver import RULES, GradientTable, Resolver, from_config, make
from pcr_run.schema import ResolverConfig

TABLE = GradientTable(*torch.tensor([[4.0], [-1.0], [2.0], [1.0], [3.0]], dtype=torch.float64))

HALF = """
class Half:
    def __init__(self, keep: float = 0.5):
        if keep < 0:
            raise ValueError("keep must not be negative")
        self.keep = keep

    def __call__(self, table, beta):
        return table.pp.new_ones(table.pp.shape), table.pp.new_full(table.pp.shape, self.keep * beta)
"""


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with a user's own files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half.py").write_text(HALF)
    return tmp_path


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_made_from_its_name_alone_and_from_the_default_configuration(name: str) -> None:
    for rule in (make(name), from_config(ResolverConfig(name=name))):
        assert isinstance(rule, RULES[name])
        a, b = rule(TABLE, 0.1)
        assert a.shape == b.shape == (1,)


def test_a_configuration_passes_shared_keys_to_the_rules_that_take_them() -> None:
    cfg = ResolverConfig(name="fixed", alpha=0.25, alpha_scale="beta", weighting="mgda")
    assert from_config(cfg)(TABLE, 0.1)[1].item() == pytest.approx(0.1 + 0.25 / 2)
    cfg.name = "pcr"
    assert from_config(cfg)(TABLE, 0.1)[1].item() == pytest.approx(0.1 + 1 / (1 + 0.01 * 3) / 2)
    cfg.name, cfg.options = "torchjd", {"epsilon": 1e-6}
    assert torch.equal(from_config(cfg)(TABLE, 0.1)[0], make("torchjd", weighting="mgda", epsilon=1e-6)(TABLE, 0.1)[0])


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("nosuch", {}, "resolver.name"),
        ("", {}, "resolver.name"),
        (":Half", {}, "resolver.name"),
        ("no.such.module:Rule", {}, "resolver.name"),
        ("math:Rule", {}, "resolver.name"),
        ("math:sqrt", {}, "resolver.name"),
        ("pcr", {"alpha": 0.5}, "resolver.alpha"),
        ("none", {"x": 1}, "resolver.x"),
        ("pcr", {"alpha_scale": "log"}, "resolver.alpha_scale"),
        *(("fixed", {"alpha": bad}, "resolver.alpha") for bad in (-0.1, 1.1, math.nan, math.inf, "half", None, True)),
    ],
)
def test_bad_names_and_options_name_their_key(name: str, options: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(name, **options)
    assert caught.value.key == key


def test_lists_from_yaml_reach_torchjd_as_vectors() -> None:
    cfg = OmegaConf.merge(OmegaConf.structured(ResolverConfig), {"name": "torchjd", "options": {"pref_vector": [1, 3]}})
    expected = make("torchjd", weighting="upgrad", pref_vector=torch.tensor([1.0, 3.0], dtype=torch.float64))
    for config in (cfg, OmegaConf.to_object(cfg)):
        assert torch.equal(torch.stack(from_config(config)(TABLE, 0.1)), torch.stack(expected(TABLE, 0.1)))


def test_options_in_a_configuration_are_strict_and_named_as_they_are_written() -> None:
    with pytest.raises(ConfigError) as caught:
        from_config(ResolverConfig(name="pcr", options={"keep": 1}))
    assert caught.value.key == "resolver.options.keep"


def test_a_user_s_rule_needs_one_class_in_a_file_on_the_path(half: Path) -> None:
    rule = from_config(ResolverConfig(name="half:Half", options={"keep": 0.25}))
    a, b = rule(TABLE, 0.4)
    assert (a.item(), b.item()) == (1.0, 0.1)
    assert isinstance(rule, Resolver)
    assert rule.needs_table
    assert rule.needs_variance


def test_the_documented_example_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "method.md").read_text()
    source, settings = (re.search(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "yaml"))
    assert source
    assert settings
    (tmp_path / "documented.py").write_text(source[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = OmegaConf.merge(
        OmegaConf.structured(ResolverConfig), OmegaConf.create(settings[1].replace("half:", "documented:"))
    )
    rule = from_config(cfg)
    a, b = rule(TABLE, 0.4)
    assert (a.item(), b.item()) == (1.0, 0.1)
    assert not rule.needs_variance


def test_a_user_s_rule_may_declare_what_it_needs(half: Path) -> None:
    (half / "plain.py").write_text(HALF.replace("class Half:", "class Plain:\n    needs_table = False\n"))
    assert make("plain:Plain").needs_table is False


@pytest.mark.parametrize(
    ("source", "options", "key", "message"),
    [
        ("def Half(", {}, "resolver.name", "SyntaxError"),
        ("import nosuchmodule", {}, "resolver.name", "nosuchmodule"),
        ("1 / 0", {}, "resolver.name", "ZeroDivisionError"),
        ("Half = 3", {}, "resolver.name", "no class"),
        ("class Half: pass", {}, "resolver.name", "__call__"),
        (HALF, {"keep": -1}, "resolver.options", "negative"),
        (HALF, {"kept": 1}, "resolver.options.kept", "keep"),
        (HALF.replace(" = 0.5", ""), {}, "resolver.options", "keep"),
    ],
)
def test_errors_in_a_user_s_file_are_one_message(
    half: Path, source: str, options: dict, key: str, message: str
) -> None:
    module = f"half_{abs(hash(source))}_{len(options)}"  # a module is imported once
    (half / f"{module}.py").write_text(source)
    with pytest.raises(ConfigError, match=message) as caught:
        from_config(ResolverConfig(name=f"{module}:Half", options=options))
    assert caught.value.key == key
