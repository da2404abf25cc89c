"""A low-rank adapter: its gradients against brute force, its reference, what of it is sent and saved."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

if importlib.util.find_spec("peft") is None:
    pytest.skip("needs pcr-run[lora]", allow_module_level=True)

import brute_force as measured
import test_learner as learned
from brute_force import G, N
from conftest import DEVICE
from safetensors.torch import load_file

from pcr_run.configuration import check
from pcr_run.configuration.check import lora as rules
from pcr_run.distributed.whole import Whole
from pcr_run.errors import ConfigError
from pcr_run.gradients import TwoGradients, group_name, select
from pcr_run.learner.learner import Learner
from pcr_run.model import lora
from pcr_run.rollout.source import Source
from pcr_run.rollout.transfer import Files
from pcr_run.run import checkpoint, saving
from pcr_run.schema import Config, LoraConfig, ResolverConfig, RolloutConfig

pytestmark = pytest.mark.usefixtures("float64_throughout")


def adapted(model: nn.Module, moved: bool = True, **options: object) -> nn.Module:
    """A model with an adapter, ``moved`` off its reference."""
    lora.attach(model, LoraConfig(**{"r": 3, "alpha": 6.0, **options}), seed=0)  # type: ignore[arg-type]
    if moved:
        move(model)
    return model


def move(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))


@pytest.mark.parametrize("engine", ["portable", "twin", "twin, recomputed"])
@pytest.mark.parametrize("unit", ["response", "query", "microbatch"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2_tied", "gpt2"])
def test_means_gramian_and_variances_equal_one_backward_per_response(architecture: str, unit: str, engine: str) -> None:
    model = adapted(measured.ARCHITECTURES[architecture]())
    names = select(model, "all")
    assert all(".lora_" in name for name in names)
    assert TwoGradients(model, names, rows=N, group=G, unit=unit, microbatch=G).max_microbatch == N  # all are tapped
    truth = measured.brute(model, names)
    cut = {} if engine == "portable" else {"layers": measured.layers(model), "recompute": "recomputed" in engine}
    assert engine == "portable" or len(cut["layers"]) == 2
    measured.agree(measured.collect(model, names, [G] * (N // G), unit, **cut), truth, unit)


def test_the_kl_that_a_reward_loses_is_to_the_base_model() -> None:
    torch.manual_seed(0)
    plain = learned.llama()
    model = adapted(copy.deepcopy(plain))
    learner = learned.make(model, kl="k1", kl_in="reward")
    found, data = learner.divergence(learned.batch(), step=1), learned.batch()
    with torch.no_grad():
        new, base = (m(input_ids=data.ids, use_cache=False).logits / learned.TEMPERATURE for m in (model, plain))
    chosen = (new.log_softmax(-1) - base.log_softmax(-1))[:, :-1].gather(-1, data.ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(found, (chosen * data.mask[:, 1:]).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"engine": "portable"}, {"engine": "twin"}, {"tokens": 20}, {"kl": "exact"}])
def test_pcr_steps_on_its_equation_and_the_base_model_is_the_reference(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    plain = learned.llama()
    model = adapted(copy.deepcopy(plain))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    learner = learned.make(model, "pcr", **options)
    assert learner.reference is None
    clone = copy.deepcopy(model)
    metrics, rows = learner.update(learned.batch(), step=1)
    kl = str(options.get("kl", "k3"))
    pla, sta = learned.written(clone, plain, learned.batch(), kl)
    named = {name: p for name, p in clone.named_parameters() if p.requires_grad}
    g_pla, g_sta = (
        dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))
        for loss in (pla, sta)
    )
    found, mlp = learned.gradients(model), set(select(model, "mlp"))
    assert found.keys() == named.keys()
    assert [row["group"] for row in rows] == ["layers.0.mlp", "layers.1.mlp"]
    for row in rows:
        members = [name for name in named if name in mlp and group_name(name, "layer") == row["group"]]
        assert len(members) == 6
        ps = sum((g_pla[name] * g_sta[name]).sum().item() for name in members)
        ss = sum(g_sta[name].square().sum().item() for name in members)
        assert row["ps"] == pytest.approx(ps, rel=1e-9)
        alpha = row["var_pla"] / (row["var_pla"] + row["var_sta"])
        b = learned.BETA - alpha * ps / ss if ps < 0 else learned.BETA
        for name in members:
            torch.testing.assert_close(found[name], g_pla[name] + b * g_sta[name], rtol=1e-9, atol=1e-13)
    for name in named.keys() - mlp:
        torch.testing.assert_close(found[name], g_pla[name] + learned.BETA * g_sta[name], rtol=1e-9, atol=1e-13)
    assert metrics["loss_sta"] == pytest.approx(sta.item(), rel=1e-6)
    for name, weight in frozen.items():
        assert torch.equal(model.get_parameter(name), weight), name


@pytest.mark.parametrize("engine", ["portable", "twin"])
def test_recomputed_activations_give_the_same_step(engine: str) -> None:
    steps = []
    for again in (False, True):
        torch.manual_seed(0)
        model = adapted(learned.gpt2())  # its norms keep float64 where recomputation is out of the fixture's reach
        learned.make(model, "pcr", engine=engine, gradient_checkpointing=again).update(learned.batch(), step=1)
        steps.append(learned.gradients(model))
    assert steps[0].keys() == steps[1].keys()
    for name, gradient in steps[0].items():
        torch.testing.assert_close(steps[1][name], gradient, rtol=1e-9, atol=1e-13)


def test_switched_off_it_is_the_base_model_and_wants_the_same_gradients() -> None:
    plain = learned.llama()
    model = adapted(copy.deepcopy(plain))
    ids = learned.batch().ids
    chosen = model.get_parameter("model.layers.0.mlp.up_proj.lora_B.default.weight").requires_grad_(False)
    wants = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.no_grad(), lora.switched_off(model):
        assert torch.equal(model(ids).logits, plain(ids).logits)
    assert not torch.allclose(model(ids).logits, plain(ids).logits)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wants
    assert not chosen.requires_grad


def test_a_new_adapter_changes_nothing_and_depends_on_the_seed_alone() -> None:
    plain = learned.llama()
    first = adapted(copy.deepcopy(plain), moved=False)
    torch.rand(1)
    second = adapted(copy.deepcopy(plain), moved=False)
    ids = learned.batch().ids
    assert torch.equal(first(ids).logits, plain(ids).logits)
    for name, weight in first.named_parameters():
        assert torch.equal(second.get_parameter(name), weight)


class Engine:
    """Reads what it is told to load, as vLLM would."""

    def ask(self, what: str, directory: str) -> None:
        assert what == "load"
        config = hf.AutoConfig.from_pretrained(directory)
        self.loaded = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64).to(DEVICE).eval()
        found = {name: w for file in Path(directory).glob("*.safetensors") for name, w in load_file(file).items()}
        assert not self.loaded.load_state_dict(found, strict=False).unexpected_keys


@pytest.mark.parametrize("architecture", ["llama", "qwen2_tied", "gpt2"])
def test_the_engine_gets_the_weights_that_the_learner_samples_from(architecture: str, tmp_path: Path) -> None:
    plain = measured.ARCHITECTURES[architecture]()
    model = adapted(copy.deepcopy(plain))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = learned.batch().ids
    engine = Engine()
    source = Source(Whole(model))
    source.describe(tmp_path)
    Files(source, engine, tmp_path).send()  # type: ignore[arg-type]
    torch.testing.assert_close(engine.loaded(ids).logits, model(ids).logits, rtol=1e-12, atol=1e-12)
    sent = dict(source)
    assert {name: (w.shape, w.dtype) for name, w in sent.items()} == {
        name: (w.shape, w.dtype) for name, w in Source(Whole(plain)).shapes()
    }
    plain.load_state_dict(sent, strict=False)
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-12, atol=1e-12)
    for name, weight in before.items():
        assert torch.equal(model.get_parameter(name), weight), name


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("engine", ["portable", "twin"])
def test_a_frozen_model_in_bfloat16_trains_an_adapter_in_float32(engine: str, autocast: bool) -> None:
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        model = adapted(learned.llama().to(dtype))
        names = select(model, "all")
        short = dtype == torch.bfloat16
        assert {model.get_parameter(name).dtype for name in names} == {torch.float32 if short else dtype}
        learned.make(model, "pcr", engine=engine, autocast=autocast and short).update(learned.batch(), step=1)
        found.append(torch.cat([model.get_parameter(name).grad.flatten().double() for name in names]))
    assert torch.cosine_similarity(*found, dim=0) > 0.99


def test_merged_weights_are_rounded_once() -> None:
    config = hf.Qwen2Config(**measured.SMALL, intermediate_size=24, num_key_value_heads=2)
    model = adapted(hf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))
    layer = model.model.layers[0].mlp.up_proj
    assert layer.lora_A["default"].weight.dtype == torch.float32
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    exact = layer.base_layer.weight.double() + 2 * b.double() @ a.double()
    found = dict(Source(Whole(model)))["model.layers.0.mlp.up_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-7).all()


@pytest.mark.parametrize("merge", [False, True])
def test_final_holds_the_adapter_and_on_request_a_whole_model(untrained: Path, tmp_path: Path, merge: bool) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(untrained)
    model = adapted(hf.AutoModelForCausalLM.from_pretrained(untrained))
    saving.rehearse(tmp_path, model, tokenizer, None, merge)
    assert list(tmp_path.iterdir()) == []
    saving.save_final(tmp_path, model, tokenizer, None, merge)
    final, ids = tmp_path / "final", torch.arange(9)[None]
    assert set(load_file(final / "adapter_model.safetensors")) == {
        "base_model.model." + name.replace(".default", "") for name in select(model, "all")
    }
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.equal(hf.AutoModelForCausalLM.from_pretrained(final)(ids).logits, expected)
        assert (final / "merged").exists() == merge
        if merge:
            whole = hf.AutoModelForCausalLM.from_pretrained(final / "merged")
            assert not lora.attached(whole)
            torch.testing.assert_close(whole(ids).logits, expected)
            assert hf.AutoTokenizer.from_pretrained(final / "merged").chat_template == tokenizer.chat_template


def test_a_checkpoint_holds_the_adapter_alone_and_goes_on_bit_for_bit() -> None:
    def fresh() -> Learner:
        torch.manual_seed(0)
        return learned.make(adapted(learned.llama(), moved=False), "pcr", lr=0.01)

    whole, first, second = fresh(), fresh(), fresh()
    for step in (1, 2, 3):
        whole.update(learned.batch(), step)
    first.update(learned.batch(), 1)
    weights, state = copy.deepcopy(checkpoint.weights(first.model)), copy.deepcopy(first.state_dict())
    assert set(weights) == set(select(first.model, "all"))
    assert len(state["optimizer"]["state"]) == len(weights)
    checkpoint.load_weights(second.model, weights)
    second.load_state_dict(state)
    for step in (2, 3):
        second.update(learned.batch(), step)
    for name, weight in whole.model.named_parameters():
        assert torch.equal(second.model.get_parameter(name), weight), name
    with pytest.raises(ValueError, match=r"not the model's"):
        checkpoint.load_weights(learned.llama(), weights)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["no_such"], r"no no_such; right: all-linear, or some of q_proj"),
        (["embed_tokens"], r"embed_tokens is no Linear layer"),
        (["lm_head"], r"lm_head is no Linear layer with weights of its own"),
        (["mlp"], r"right: all-linear"),
    ],
)
def test_targets_that_cannot_be_adapted_are_named(targets: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        lora.attach(learned.llama(tie_word_embeddings=True), LoraConfig(r=2, targets=targets), seed=0)
    assert caught.value.key == "learner.lora.targets"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learner.lora.targets", []),
        ("learner.reference", "old"),
        ("learner.reference_device", "cpu"),
        ("learner.lora.r", None),
    ],
)
def test_keys_that_mean_nothing_together_are_refused(key: str, value: object) -> None:
    cfg = Config(rollout=RolloutConfig(name="hf"), resolver=ResolverConfig(name="none"))
    cfg.learner.lora = LoraConfig(r=4, merge=True)
    assert list(rules.problems(cfg)) == []
    owner, _, last = key.rpartition(".")
    setattr(check.get(cfg, owner), last, value)
    expected = {"learner.lora.r": "learner.lora.merge"}.get(key, key)
    assert [found for found, _ in rules.problems(cfg)] == [expected]
