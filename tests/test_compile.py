"""Compiled layers give what layers as they stand give: both gradients, each by itself, and every variance."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
import transformers as hf
from brute_force import ARCHITECTURES, G, N, agree, brute, collect, layers
from test_bfloat16 import batch as ragged
from test_bfloat16 import policy
from torch import nn
from torch._dynamo.utils import counters

from pcr_run.gradients.cut import outermost
from pcr_run.gradients.groups import select
from pcr_run.gradients.two import TwoGradients
from pcr_run.learner import compile as module
from pcr_run.learner.compile import Compiled, compiled
from pcr_run.learner.learner import Learner
from pcr_run.model.policy import disable_dropout
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig

QUICK = [("llama", "twin, recomputed"), ("gpt2", "portable, recomputed")]
ALL = [(name, engine) for name in ARCHITECTURES for engine in ("portable", "twin", "twin, recomputed")]


@pytest.fixture(autouse=True)
def nothing_compiled_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backends other than ``aot_eager`` differ from it only behind the graphs whose backward passes torch derives."""
    monkeypatch.setattr(module, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize(
    ("name", "engine"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in QUICK)]
)
def test_means_gramian_and_variances_equal_one_backward_per_response(name: str, engine: str) -> None:
    model = ARCHITECTURES[name]()
    names = select(model, "mlp")
    truth = brute(model, names)
    size = min(TwoGradients(model, names, rows=N, group=G).max_microbatch, G)
    cut = {} if "portable" in engine else {"layers": layers(model), "recompute": "recomputed" in engine}
    if engine == "portable, recomputed":
        model.gradient_checkpointing_enable({"use_reentrant": False})
        disable_dropout(model)
        model.train()
    with Compiled(outermost(model), "aot_eager"):
        two = collect(model, names, [size] * (N // size), "response", **cut)
    assert counters["stats"]["unique_graphs"] > 0
    agree(two, truth, "response")


def make(model: nn.Module, resolver: str = "pcr", **options: object) -> Learner:
    learner = Learner(
        model,
        LearnerConfig(**{"beta": 0.5, "lr": 1e-3, "tokens": 128, "compile": True, **options}),
        ResolverConfig(name=resolver, granularity="tensor"),
        MeasureConfig(),
        steps=9,
        rollout=RolloutConfig(name="hf", max_new_tokens=54),
    )
    with torch.no_grad():
        for parameter in model.parameters():  # away from the reference
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(0.1 * parameter.std().nan_to_num(1.0) * noise.to(parameter.device))
    return learner


def values(rows: list[dict[str, float]]) -> torch.Tensor:
    return torch.tensor([[row[key] for key in ("pp", "ps", "ss", "var_pla", "var_sta")] for row in rows])


@pytest.mark.parametrize(
    ("resolver", "options"),
    [
        ("pcr", {"engine": "twin", "autocast": True}),
        pytest.param("pcr", {"engine": "portable", "microbatch": 4, "tokens": None}, marks=pytest.mark.slow),
        ("none", {"engine": "twin", "autocast": True, "gradient_checkpointing": True}),
    ],
)
def test_an_update_is_the_same(resolver: str, options: dict[str, object]) -> None:
    found = []
    for each in (False, True):
        learner = make(policy(), resolver, compile=each, **options)
        metrics, rows = learner.update(ragged(), 1)
        gradients = [p.grad.clone() for p in learner.model.parameters()]
        found.append((metrics["grad_norm"], values(rows), gradients))
    (norm, table, gradients), (again, compiled_table, compiled_gradients) = found
    assert again == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(compiled_table, table, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-3, atol=1e-6)


def test_ragged_batches_and_more_layers_compile_nothing_anew_and_nothing_is_compiled_elsewhere() -> None:
    learner = make(policy())
    learner.update(ragged(), 1)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 12  # pieces before and after attention; policy and reference, with and without gradients
    data = ragged()
    for shorter in (7, 12, 20):
        data.mask[:, 60 - shorter :] = False
        learner.update(data, 2)
    assert all("forward" not in vars(layer) for layer in outermost(learner.model))
    learner.model(input_ids=torch.arange(9, device=learner.model.device)[None])
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_run_goes_on_bit_for_bit() -> None:
    whole = make(policy())
    for step in (1, 2):
        whole.update(ragged(), step)
    first = make(policy())
    first.update(ragged(), 1)
    second = make(policy())
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch._dynamo.reset()  # as in a new process
    second.update(ragged(), 2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_where_nothing_compiles_the_layers_run_as_they_stand(caplog, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(module, "BACKEND", broken)
    with caplog.at_level(logging.WARNING, "pcr_run"):
        learner = make(policy())
        found, _ = learner.update(ragged(), 1)
    assert caplog.text.count("layers run as they stand") == 1
    assert "no compiler here" in caplog.text
    expected, _ = make(policy(), compile=False).update(ragged(), 1)
    assert found["grad_norm"] == expected["grad_norm"]


def test_a_compiler_that_errs_is_noticed(caplog) -> None:
    """Both gradients are tried: here the second one is another."""
    found = iter([{"a": torch.ones(3), "b": torch.ones(3)}, {"a": torch.ones(3), "b": torch.full((3,), 1.5)}])
    with caplog.at_level(logging.WARNING, "pcr_run"), compiled([policy().model.layers[0]], lambda: next(found)) as how:
        assert how is None
    assert "the gradient of b is another one" in caplog.text


def test_auto_compiles_on_a_gpu_only() -> None:
    learner = make(policy(), compile="auto")
    assert isinstance(learner.compiled, Compiled) == (learner.model.device.type == "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["portable", "twin"])
def test_kernels_that_reuse_memory_leave_the_first_cotangent_alone(engine: str, monkeypatch) -> None:
    """The real compiler, which plans its buffers: what a tap keeps for the second pass must not be written over."""
    monkeypatch.setattr(module, "BACKEND", "inductor")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    found = []
    for each in (False, True):
        torch.manual_seed(0)
        config = hf.Qwen2Config(vocab_size=64, num_hidden_layers=3, **shape)
        model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        learner = make(model, compile=each, engine=engine)
        assert isinstance(learner.compiled, Compiled) == each
        found.append(values(learner.update(ragged(), 1)[1]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-8)
