"""Under autocast weights are cast once, to the bits that autocast would give them each time."""

import contextlib
import copy

import pytest
import torch
import transformers as hf
from test_learner import G, N, batch, drift, gpt2, llama, make
from torch import nn

from pcr_run.learner import learner as module
from pcr_run.learner import reference
from pcr_run.model.precision import cast_once, store


def tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


def biased() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = hf.Qwen2Config(vocab_size=23, num_hidden_layers=2, **shape)
    return hf.AutoModelForCausalLM.from_config(config)


MODELS = {"llama": llama, "tied": tied, "biased": biased, "gpt2": gpt2}


def ready(name: str, resolver: str, **options: object):
    torch.manual_seed(0)
    model = MODELS[name]().to(torch.float32)
    learner = make(model, resolver, autocast=True, **options)
    return model, learner


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("engine", ["auto", "portable"])
@pytest.mark.parametrize("resolver", ["none", "pcr"])
def test_an_update_is_the_same_to_the_last_bit(monkeypatch, name, checkpointing, engine, resolver) -> None:
    found = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(module, "cast_once", lambda _: contextlib.nullcontext())
            monkeypatch.setattr(reference, "store", lambda *_: None)
        model, learner = ready(name, resolver, gradient_checkpointing=checkpointing, engine=engine)
        drift(model)
        metrics, rows = learner.update(batch(), step=1)
        metrics2, _ = learner.update(batch(), step=2)
        found.append((metrics, rows, metrics2, [p.detach().clone() for p in model.parameters()]))
    assert found[0][:3] == found[1][:3]
    assert all(a.equal(b) for a, b in zip(found[0][3], found[1][3], strict=True))
    assert all(p.dtype == torch.float32 for p in found[0][3])


@pytest.mark.parametrize("name", MODELS)
def test_policy_and_reference_agree_to_the_last_bit_at_the_first_step(name) -> None:
    _, learner = ready(name, "pcr")
    metrics, rows = learner.update(batch(), step=1)
    assert (metrics["kl"], metrics["loss_sta"]) == (0.0, 0.0)
    assert all(row["ss"] == 0 for row in rows)


def test_a_reference_takes_half_the_memory_of_its_products() -> None:
    _, learner = ready("tied", "none")
    dtypes = {name: weight.dtype for name, weight in learner.reference.named_parameters()}
    assert dtypes.pop("model.embed_tokens.weight") == torch.float32
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {n for n in dtypes if "norm" in n}
    assert "lm_head.weight" in dtypes


def test_the_old_policy_as_reference_is_cast_again_at_each_update() -> None:
    model, learner = ready("tied", "pcr", reference="old")
    drift(model)
    for step in (1, 2):
        metrics, _ = learner.update(batch(), step=step)
        assert metrics["kl"] == 0.0


def test_weights_are_back_after_an_error() -> None:
    model = llama().to(torch.float32)
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with contextlib.suppress(KeyError), torch.autocast("cpu", torch.bfloat16), cast_once(model):
        assert model.lm_head.weight.dtype == torch.bfloat16
        assert model.model.norm.weight.dtype == torch.float32
        raise KeyError
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_nothing_is_cast_without_autocast() -> None:
    model = llama().to(torch.float32).requires_grad_(False)
    with cast_once(model):
        assert model.lm_head.weight.dtype == torch.float32


def test_a_reference_that_waits_elsewhere_gives_the_same() -> None:
    found = []
    for place in (None, "cpu"):
        model, learner = ready("llama", "pcr", reference_device=place)
        drift(model)
        found.append(learner.update(batch(), step=1)[0])
    assert found[0] == found[1]


def test_storing_keeps_what_is_no_product() -> None:
    model = gpt2().to(torch.float32)
    store(model, torch.bfloat16)
    kinds = {name.rpartition(".")[0].rpartition(".")[2]: weight.dtype for name, weight in model.named_parameters()}
    assert {kinds[name] for name in ("c_attn", "c_fc", "lm_head")} == {torch.bfloat16}
    assert {kinds[name] for name in ("wte", "wpe", "ln_1", "ln_f")} == {torch.float32}
    assert N % G == 0
