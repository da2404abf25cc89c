"""The memory of a dry run: its formula against the tensors that a learner really holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from pcr_run.configuration import layouts
from pcr_run.configuration.memory import MLP, adapter_weights, memory, on_gpu, on_host, parts
from pcr_run.gradients.groups import select
from pcr_run.learner.learner import Learner
from pcr_run.model import lora
from pcr_run.model.card import Card, read
from pcr_run.model.known import SHAPES
from pcr_run.model.recipe import ARCHITECTURE
from pcr_run.schema import Config, LearnerConfig, LoraConfig, ModelConfig, ResolverConfig, RolloutConfig


def sizes(cfg: Config, card: Card) -> dict[str, float]:
    """Bytes by what they are for."""
    return {
        what.removeprefix("memory: "): 1e9 * float(text.split()[0])
        for what, text in memory(cfg, card)
        if " GB (" in text
    }


@pytest.mark.parametrize(
    ("autocast", "reference_is"), [(False, "initial"), (True, "initial"), (True, "every:2"), (True, "ema:0.1")]
)
def test_what_is_counted_is_what_is_held(autocast: bool, reference_is: str) -> None:
    shape = {**ARCHITECTURE, "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8192}
    policy = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.float32)
    parameters = sum(p.numel() for p in policy.parameters())
    cfg = Config(rollout=RolloutConfig(name="vllm"), resolver=ResolverConfig(name="pcr"))
    cfg.learner = LearnerConfig(autocast=autocast, reference=reference_is)
    found = sizes(cfg, Card("x", 512, 3, 8192, parameters, True, "here", 2048))
    learner = Learner(policy, cfg.learner, cfg.resolver, cfg.measure, steps=1, rollout=cfg.rollout)
    reference = sum(p.nbytes for p in learner.reference.parameters())
    mlp = sum(p.nbytes for name, p in policy.named_parameters() if name in set(select(policy, "mlp")))
    assert found["weights"] == pytest.approx(4 * parameters, rel=0.05, abs=1e7)
    assert found["optimizer"] == pytest.approx(8 * parameters, rel=0.05, abs=1e7)
    assert found["reference"] == pytest.approx(reference, rel=0.05, abs=1e7)
    assert found["g_sta"] == pytest.approx(mlp, rel=0.05, abs=1e7)
    assert ("weights in bfloat16" in found) is autocast


def test_what_is_not_needed_is_not_counted() -> None:
    card = Card("x", 512, 3, 8192, 10**9, True, "here", 2048)
    cfg = Config(rollout=RolloutConfig(name="hf"), resolver=ResolverConfig(name="none"))
    cfg.learner.beta = 0.0
    assert not {"reference", "g_sta", "groups in parts", "engine"} & set(sizes(cfg, card))
    full = sizes(cfg, card)["activations"]
    cfg.learner.gradient_checkpointing = True
    assert sizes(cfg, card)["activations"] < full / 2
    assert memory(cfg, Card("x", None, None, None, None, None, "hub")) == [
        ("memory", "not known before the model's files are here")
    ]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_weights_and_what_belongs_to_them(ranks: int) -> None:
    card = Card("x", 512, 3, 8192, 10**9, True, "here", 2048)
    cfg = Config(rollout=RolloutConfig(name="hf"), resolver=ResolverConfig(name="pcr"))
    one = sizes(cfg, card)
    cfg.launch.nproc = ranks
    shared = sizes(cfg, card)
    for what in ("weights", "gradients", "optimizer", "reference", "g_sta"):
        assert shared[what] == pytest.approx(one[what] / ranks, abs=1e7)
    assert shared["activations"] == one["activations"]
    here, there = parts(cfg, card, ranks, offload=False), parts(cfg, card, ranks, offload=True)
    mlp = ranks * sum(part.size for part in here if part.what in ("g_sta", "groups in parts"))
    assert on_host(here, ranks) == 0
    assert on_host(there, ranks) == pytest.approx(4 * 10**9 * (1 + 1 + 2 + 1) + mlp, rel=0.01)
    assert on_gpu(there) == pytest.approx(on_gpu(here) - on_host(there, ranks) / ranks)
    rows = dict(memory(cfg, card))
    assert f"each of {ranks} GPUs" in rows["memory: learner"]
    assert "GB of CPU memory" in rows["memory: learner, launch.offload=true"]


@pytest.mark.parametrize("hub_id", SHAPES)
def test_the_shapes_of_the_papers_models_add_up(hub_id: str) -> None:
    shape = dict(SHAPES[hub_id])
    parameters = shape.pop("parameters")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**shape))
    assert model.num_parameters() == parameters


@pytest.mark.parametrize("targets", [["all-linear"], ["up_proj", "q_proj"]])
def test_an_adapter_is_counted_as_it_is(targets: list[str], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = AutoModelForCausalLM.from_config(Qwen2Config(**ARCHITECTURE), dtype=torch.float32)
    policy.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    cfg = Config(rollout=RolloutConfig(name="hf"), resolver=ResolverConfig(name="pcr"))
    cfg.learner.lora = LoraConfig(r=4, targets=targets)
    about = read(ModelConfig(path=str(tmp_path)))
    lora.attach(policy, cfg.learner.lora, seed=0)
    trained = {name: p.numel() for name, p in policy.named_parameters() if p.requires_grad}
    assert adapter_weights(cfg, about) == sum(trained.values())
    assert adapter_weights(cfg, about, MLP) == sum(size for name, size in trained.items() if ".mlp." in name)
    assert not {"reference"} & {part.what for part in parts(cfg, about, 1, offload=False)}


def test_the_tables_of_the_documentation_are_made_by_their_commands() -> None:
    text = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    tables = re.findall(r"`python -m pcr_run\.configuration\.layouts ([^`]+)`:\n\n((?:\|.*\n)+)", text)
    assert len(tables) == text.count("pcr_run.configuration.layouts") == 3
    for overrides, table in tables:
        assert layouts.render(overrides.split()) == table, overrides


def test_a_table_of_layouts_is_that_of_the_dry_run() -> None:
    table = layouts.render(["scale=paper", "model=r1_7b", "rollout=hf"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "2", "4", "8"]
    numbers = [float(row[1]) for row in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert all(float(row[2]) < float(row[1]) for row in rows)
