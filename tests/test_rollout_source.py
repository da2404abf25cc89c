"""The learner's weights on their way to an engine, and what several engines on one machine are started with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import nn

from pcr_run.distributed import ranks
from pcr_run.distributed.whole import Whole
from pcr_run.errors import ConfigError
from pcr_run.model import lora
from pcr_run.rollout.arguments import adapter, gpus
from pcr_run.rollout.engine import without_rank
from pcr_run.rollout.source import Source
from pcr_run.rollout.vllm import VLLMWorker
from pcr_run.schema import LoraConfig

SHAPE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


class ByLayer(Whole):
    """Weights in one piece that are handed out as those in shards are."""

    def parts(self) -> Iterator[dict[str, nn.Parameter]]:
        layers = [f"model.layers.{number}." for number in range(2)]
        for layer in layers:
            yield {name: p for name, p in self.parameters.items() if name.startswith(layer)}
        yield {name: p for name, p in self.parameters.items() if not name.startswith(tuple(layers))}


@pytest.mark.parametrize(
    "config",
    [
        hf.Qwen2Config(**SHAPE, tie_word_embeddings=True),
        hf.Qwen3MoeConfig(**SHAPE, head_dim=8, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8),
    ],
    ids=["tied", "experts"],
)
def test_blocks_together_are_a_checkpoint(config: hf.PretrainedConfig, tmp_path: Path) -> None:
    model = hf.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "checkpoint")
    wanted = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for weights, files in ((Whole(model), 1), (ByLayer(model), 3)):
        source = Source(weights)
        directory = tmp_path / str(files)
        source.describe(directory)
        source.save(directory)
        written = sorted(directory.glob("*.safetensors"))
        found = {name: weight for file in written for name, weight in load_file(file).items()}
        assert len(written) == files
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
        declared = [(name, empty.shape, empty.dtype) for name, empty in source.shapes()]
        assert declared == [(name, weight.shape, weight.dtype) for name, weight in source]
    assert source.bytes == sum(weight.nbytes for weight in wanted.values())
    assert source.largest == max(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("merged", [True, False])
def test_blocks_are_those_of_the_base_model_or_with_the_change_of_its_adapter(merged: bool) -> None:
    pytest.importorskip("peft")
    model = hf.AutoModelForCausalLM.from_config(hf.Qwen2Config(**SHAPE))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    lora.attach(model, LoraConfig(r=2, targets=["up_proj"]), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    source = Source(ByLayer(model), merged)
    found = dict(source)
    assert found.keys() == before.keys()
    assert {name for name in found if not torch.equal(found[name], before[name])} == (
        {f"model.layers.{number}.mlp.up_proj.weight" for number in range(2)} if merged else set()
    )
    assert [(name, empty.shape) for name, empty in source.shapes()] == [(name, w.shape) for name, w in source]


@pytest.mark.parametrize(
    ("given", "visible", "device", "expected"),
    [
        (None, None, "cuda:1", "1"),
        (None, "6,7", "cuda:1", "7"),
        (None, None, "cpu", None),
        ("4,5,6,7", None, "cuda:1", "6,7"),
        ("2,3", "0,1", "cuda:1", "3"),
    ],
)
def test_each_rank_has_an_engine_on_gpus_of_its_own(
    given: str | None, visible: str | None, device: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    alone = expected if given is None else given
    assert gpus(given, torch.device(device)) == alone  # one process: all of those given, or the learner's own
    monkeypatch.setattr(ranks, "together", lambda: True)
    assert gpus(given, torch.device(device)) == expected


def test_an_engine_does_not_take_itself_for_its_rank() -> None:
    of_a_rank = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert without_rank({**of_a_rank, "HOME": "/root"}) == {"HOME": "/root"}


def test_an_adapter_gets_the_next_rank_that_vllm_has_room_for() -> None:
    assert [adapter(r, "bfloat16", "cuda")["max_lora_rank"] for r in (1, 4, 16, 33, 512)] == [1, 8, 16, 64, 512]
    assert adapter(4, "float32", "cpu")["enable_lora"] is True
    with pytest.raises(ConfigError, match=r"rollout\.lora: on GPUs .* half precision only; right: merged"):
        adapter(4, "float32", "cuda")


def test_before_an_engine_wakes_the_learners_allocator_gives_back_what_it_keeps(monkeypatch) -> None:
    """Else both together want more than the GPU has: what a step frees, torch keeps for the next one."""
    worker, done = VLLMWorker.__new__(VLLMWorker), []
    worker.sleeps = worker.asleep = True
    worker.engine = SimpleNamespace(ask=lambda _, method, *rest: done.append(method))
    worker.transfer = SimpleNamespace(send=lambda: done.append("send"))
    monkeypatch.setattr(worker, "_expected", list)
    monkeypatch.setattr(worker, "_compare", lambda _: 0.0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("empty_cache"))
    worker._sync()
    assert done == ["empty_cache", "wake_up", "send", "reset_prefix_cache", "wake_up"]
