"""Products and variances in AdamW's metric, against one float64 backward per response and the metric written out."""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import math
from collections.abc import Callable

import brute_force as measured
import pytest
import test_learner as learned
import torch
from brute_force import G, N
from torch import Tensor, nn

from pcr_run.gradients.groups import group_name, select
from pcr_run.gradients.two import TwoGradients
from pcr_run.learner.learner import Learner
from pcr_run.learner.metric import preconditioned
from pcr_run.learner.optimizer import OPTIMIZERS
from pcr_run.model.policy import disable_dropout
from pcr_run.resolver import make
from pcr_run.schema import LearnerConfig, LoraConfig, MeasureConfig, ResolverConfig, RolloutConfig

pytestmark = pytest.mark.usefixtures("float64_throughout")
COLUMNS = ("pp", "ps", "ss", "var_pla", "var_sta")
PEFT = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs pcr-run[lora]")


def some(model: nn.Module) -> Callable[[str], Tensor]:
    """A metric: over several orders of magnitude, a tenth of it 0."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for name, p in model.named_parameters():
        d = (2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)).exp()
        found[name] = torch.where(torch.rand(p.shape, generator=generator) < 0.1, 0.0, d).to(p.device)
    return found.__getitem__


def adapted(model: nn.Module) -> nn.Module:
    from pcr_run.model import lora

    lora.attach(model, LoraConfig(r=3, alpha=6.0), seed=0)
    learned.drift(model)
    return model


@functools.cache
def case(architecture: str, modules: str) -> tuple[nn.Module, list[str], dict[str, Tensor]]:
    """A model, some of its parameters and their gradients by response."""
    name, _, adapter = architecture.partition(", ")
    model = measured.ARCHITECTURES[name]()
    model = adapted(model) if adapter else model
    names = select(model, modules)
    return model, names, measured.brute(model, names)


def expected(rows: Tensor, metric: Tensor, unit: str) -> dict[str, float]:
    """The five numbers of one parameter from its gradients by response [2, N, ...]."""
    root = metric.sqrt()
    pla, sta = (root * g for g in rows.sum(1))
    return {
        "pp": pla.square().sum().item(),
        "ps": (pla * sta).sum().item(),
        "ss": sta.square().sum().item(),
        "var_pla": measured.variance(root * rows[0], unit).item(),
        "var_sta": measured.variance(root * rows[1], unit).item(),
    }


@pytest.mark.parametrize("engine", ["portable", "twin", "twin, recomputed"])
@pytest.mark.parametrize("unit", ["response", "query", "microbatch"])
@pytest.mark.parametrize(
    ("architecture", "modules"),
    [
        *(("llama", "mlp"), ("gpt2", "mlp"), ("mixtral", "mlp"), ("llama", "all")),
        pytest.param("llama, adapted", "all", marks=PEFT),
    ],
)
def test_the_table_in_a_metric_equals_one_backward_per_response(
    architecture: str, modules: str, unit: str, engine: str
) -> None:
    model, names, truth = case(architecture, modules)
    metric = some(model)
    one = min(G, TwoGradients(model, names, rows=N, group=G, unit=unit, microbatch=G).max_microbatch)
    cut = {} if engine == "portable" else {"layers": measured.layers(model), "recompute": "recomputed" in engine}
    two = measured.collect(model, names, [one] * (N // one), unit, metric=metric, **cut)
    table = two.table()
    for k, name in enumerate(names):
        g_pla, g_sta = truth[name].sum(1)
        torch.testing.assert_close(two.plasticity()[name], g_pla, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(two.stability()[name], g_sta, rtol=1e-9, atol=1e-14)
        values = expected(truth[name], metric(name), unit)
        for column, value in values.items():
            rest = 1e-24 + (1e-12 * math.sqrt(values["pp"] * values["ss"]) if column == "ps" else 0.0)
            assert getattr(table, column)[k].item() == pytest.approx(value, rel=1e-9, abs=rest), (name, column)


def test_recomputed_activations_and_padding_change_nothing() -> None:
    model = measured.ARCHITECTURES["gpt2"]()
    names, metric = select(model, "mlp"), some(model)
    plain = measured.collect(model, names, [G] * (N // G), "response", metric=metric).table()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    disable_dropout(model)
    model.train()
    again = measured.collect(model, names, [1] * N, "response", pad=3, metric=metric).table()
    for column in COLUMNS:
        torch.testing.assert_close(getattr(again, column), getattr(plain, column), rtol=1e-9, atol=0)


def learner(model: nn.Module, space: str = "preconditioned", resolver: str = "pcr_literal", **more: object) -> Learner:
    unit, granularity = more.pop("unit", "response"), more.pop("granularity", "layer")
    options = {"beta": learned.BETA, "max_grad_norm": None, "microbatch": G, "lr": 1e-2, "betas": [0.8, 0.9], **more}
    return Learner(
        model,
        LearnerConfig(**options),  # type: ignore[arg-type]
        ResolverConfig(name=resolver, space=space),
        MeasureConfig(unit=str(unit), granularity=str(granularity)),
        steps=10,
        rollout=RolloutConfig(name="hf", temperature=learned.TEMPERATURE, max_new_tokens=6),
    )


@pytest.mark.parametrize("unit", ["response", "query"])
@pytest.mark.parametrize("engine", ["portable", "twin"])
def test_an_update_is_resolved_in_the_metric_of_the_moments_before_it(engine: str, unit: str) -> None:
    """One of its groups has no advantage, so that it goes down as one cotangent."""
    torch.manual_seed(0)
    model, data = learned.llama(), learned.batch()
    data.advantages[G:] = 0.0
    found = learner(model, engine=engine, unit=unit)
    learned.drift(model)
    for step in (1, 2):
        found.update(data, step)
    clone, named = copy.deepcopy(model), dict(model.named_parameters())
    v = {name: found.optimizer.state[p]["exp_avg_sq"].clone() for name, p in named.items()}
    _, rows = found.update(data, 3)
    shares = {name: [] for name in select(model, "mlp")}
    weights = [dict(clone.named_parameters())[name] for name in shares]
    for objective in (0, 1):
        for i in range(N):
            loss = learned.written(clone, found.reference, data, "k3", slice(i, i + 1))[objective] / N
            for name, gradient in zip(shares, torch.autograd.grad(loss, weights), strict=True):
                shares[name].append(gradient)
    truth = {name: torch.stack(each).view(2, N, *each[0].shape) for name, each in shares.items()}
    assert [row["group"] for row in rows] == ["layers.0.mlp", "layers.1.mlp"]
    for row in rows:
        members = [name for name in truth if group_name(name, "layer") == row["group"]]
        metric = {name: 1 / ((v[name] / (1 - 0.9**2)).sqrt() + 1e-8) for name in members}
        tables = [expected(truth[name], metric[name], unit) for name in members]
        total = {column: sum(table[column] for table in tables) for column in COLUMNS}
        for column, value in total.items():
            assert row[column] == pytest.approx(value, rel=1e-8), column
        b = -total["var_pla"] / (total["var_pla"] + total["var_sta"]) * total["ps"] / total["ss"]
        assert (row["a"], row["b"]) == (1.0, pytest.approx(b, rel=1e-8))
        for name in members:
            g_pla, g_sta = truth[name].sum(1)
            torch.testing.assert_close(named[name].grad, g_pla + b * g_sta, rtol=1e-7, atol=1e-12)
        before = dict(clone.named_parameters())
        moved = torch.cat([(before[name] - named[name]).detach().flatten() for name in members])
        g_sta = torch.cat([truth[name][1].sum(0).flatten() for name in members])
        assert row["cos_step_sta"] == pytest.approx(torch.cosine_similarity(moved, g_sta, dim=0).item(), rel=1e-6)


def test_the_first_update_is_that_of_gradient_space_bit_for_bit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pcr_run.learner.metric")
    steps: list[list[object]] = []
    models = []
    for space in ("gradient", "preconditioned"):
        torch.manual_seed(0)
        models.append(learned.llama())
        found = learner(models[-1], space, "pcr")
        learned.drift(models[-1])
        steps.append([found.update(learned.batch(), 1), found.update(learned.batch(), 2)])
    assert steps[0][0] == steps[1][0]
    assert steps[0][1] != steps[1][1]
    assert [record.message.partition(":")[0] for record in caplog.records] == ["resolver.space"]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_resumed_learner_goes_on_bit_for_bit(optimizer: str) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("torchao")

    def fresh() -> Learner:
        torch.manual_seed(0)
        return learner(learned.llama(), optimizer=optimizer)

    whole, first, second = fresh(), fresh(), fresh()
    rows = [whole.update(learned.batch(), step) for step in (1, 2, 3)]
    first.update(learned.batch(), 1)
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second.update(learned.batch(), step) for step in (2, 3)] == rows[1:]
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_in_eight_bits_are_read_as_the_optimizer_reads_them() -> None:
    pytest.importorskip("torchao")
    found = {}
    for name in ("adamw", "adamw8bit"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64)  # as many entries as it takes
        optimizer = OPTIMIZERS[name](layer.parameters(), LearnerConfig(lr=1e-3))
        layer(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        found[name] = preconditioned(optimizer, dict(layer.named_parameters()))("weight")  # type: ignore[misc]
    v = optimizer.state[layer.weight]["exp_avg_sq"]
    assert hasattr(v, "codes")
    wanted = 1 / ((v.dequantize() / (1 - 0.999)).sqrt() + 1e-8)
    known = v.dequantize() > 0
    torch.testing.assert_close(found["adamw8bit"][known], wanted[known], rtol=1e-4, atol=0)
    assert (found["adamw8bit"][~known] == 0).all()
    assert known.float().mean() > 0.9
    full = found["adamw"][known]
    assert ((found["adamw8bit"][known] - full).abs() / full).median() < 0.05


@PEFT
def test_weights_without_a_history_count_for_nothing() -> None:
    """While an adapter's B is 0, A has no gradient: at the second update A's v is 0, and 1 / eps would drown B."""
    from pcr_run.model import lora

    torch.manual_seed(0)
    model = learned.llama()
    lora.attach(model, LoraConfig(r=3, alpha=6.0), seed=0)
    found = learner(model, granularity="tensor")
    for step, known in ((1, True), (2, False), (3, True)):
        _, rows = found.update(learned.batch(), step)
        kinds = {kind: [row for row in rows if kind in row["group"]] for kind in ("lora_A", "lora_B")}
        assert all(kinds.values())
        assert all(row["pp"] > 0 for row in kinds["lora_B"])
        assert all((row["pp"] > 0) is (known and step > 1) for row in kinds["lora_A"])


def moments(model: nn.Module, factor: float) -> Callable[[str], Tensor]:
    """The metric after one step of AdamW at rate 0 with gradients that are ``factor`` times those of the sum."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, eps=1e-30)
    model.zero_grad()
    (factor * sum(measured.losses(model, *measured.batch()))).backward()
    optimizer.step()
    model.zero_grad()
    found = preconditioned(optimizer, dict(model.named_parameters()))
    assert found is not None
    return found


def test_losses_and_history_in_another_unit_leave_the_decision_as_it_is() -> None:
    """AdamW's steps do not depend on the unit either; the five numbers have the unit of the losses themselves."""
    model = measured.ARCHITECTURES["llama"]()
    names, (ids, pla, sta) = select(model, "mlp"), measured.batch()
    found = []
    for factor in (1.0, 1e-3):
        metric = moments(model, factor)
        with TwoGradients(model, names, rows=N, group=G, metric=metric) as two:
            two.backward(*(factor * loss for loss in measured.losses(model, ids, pla, sta)), measured.BETA, N)
        found.append((factor, two.table(), two.resolve(make("pcr_literal"), measured.BETA)))
    (_, one, first), (factor, other, second) = found
    for column in COLUMNS:
        torch.testing.assert_close(getattr(other, column), factor * getattr(one, column), rtol=1e-9, atol=1e-24)
    torch.testing.assert_close(second.b, first.b, rtol=1e-9, atol=0)


def test_what_is_projected_in_the_metric_is_a_step_that_leaves_the_other_loss_alone() -> None:
    """L_sta by its own values, a little way along D times the update: in gradient space it changes."""
    model = measured.ARCHITECTURES["gpt2"]()
    names, named, metric = select(model, "mlp"), dict(model.named_parameters()), moments(model, 1.0)

    @torch.no_grad()
    def change(step: dict[str, Tensor]) -> float:
        """The derivative of L_sta along a step."""
        at, small = [], 1e-6 / max(d.abs().max().item() for d in step.values())
        for sign in (1, -2):
            for name, d in step.items():
                named[name].add_(d, alpha=sign * small)
            at.append(measured.losses(model, *measured.batch())[1].item())
        for name, d in step.items():
            named[name].add_(d, alpha=small)
        return (at[0] - at[1]) / (2 * small)

    def project(table, _beta):
        return torch.ones_like(table.pp), -table.slope

    changes = {}
    for space in ("none", "gradient", "preconditioned"):
        own = {"metric": metric} if space == "preconditioned" else {}
        two = measured.collect(model, names, [N], "response", **own)
        two.resolve(project if space != "none" else make("none"), 0.0)
        changes[space] = abs(change({name: metric(name) * named[name].grad for name in names}))
    assert changes["preconditioned"] < 1e-6 * changes["none"]
    assert changes["gradient"] > 1e-3 * changes["none"]
