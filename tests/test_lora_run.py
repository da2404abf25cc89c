"""Whole runs with an adapter: taken up again bit for bit, and from vLLM's engine."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch

if importlib.util.find_spec("peft") is None:
    pytest.skip("needs pcr-run[lora]", allow_module_level=True)

from conftest import DEVICE
from real_engine import PROBE, config, mismatch, sample, tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pcr_run.distributed.whole import Whole
from pcr_run.errors import RunError
from pcr_run.model import lora
from pcr_run.rollout.vllm import VLLMWorker
from pcr_run.schema import LoraConfig


def run(directory: Path, model: Path, scorer: Path, *more: str) -> None:
    arguments = [f"hydra.run.dir={directory}", f"model.path={model}", "tracker=none", "tracker.report=false"]
    arguments += ["steps=3", "rollout.prompts=4", "rollout.group=4", "rollout.max_new_tokens=8", "evaluation=none"]
    arguments += ["learner.lora.r=4", "learner.lr=1e-2", "checkpoint.every=1", "checkpoint.keep=3"]
    arguments += ["reward=model", f"reward.path={scorer}", "learner.microbatch=8", *more]
    assert in_process.run(*arguments) == 0


def records(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for name in ("metrics", "layers") for line in (directory / f"{name}.jsonl").open()]
    return [{key: v for key, v in line.items() if not key.startswith(("time/", "perf/"))} for line in lines]


def test_a_killed_run_goes_on_bit_for_bit(untrained: Path, scorer: Path, tmp_path: Path) -> None:
    optimizer = "adamw8bit" if importlib.util.find_spec("torchao") else "adamw"
    whole, again = tmp_path / "whole", tmp_path / "again"
    more = (f"learner.optimizer={optimizer}", "learner.lora.merge=true")
    run(whole, untrained, scorer, *more)
    shutil.copytree(whole, again)  # as it was after its first step
    for step in (2, 3):
        shutil.rmtree(again / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(again / "final")
    (again / "result.json").unlink()
    run(again, untrained, scorer, *more)
    assert json.loads((again / "result.json").read_text())["resumed_from"] == [1]
    assert records(whole) == records(again)
    for name in ("adapter_model.safetensors", "merged/model.safetensors"):
        ours, theirs = (load_file(directory / "final" / name) for directory in (whole, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(theirs[key], weight) for key, weight in ours.items())
    assert any(line.get("ss", 0) > 0 for line in records(whole))  # it moved off its reference
    base, merged = load_file(untrained / "model.safetensors"), load_file(whole / "final/merged/model.safetensors")
    changed = {name for name, weight in base.items() if not torch.equal(weight, merged[name])}
    assert changed == {name for name in base if "_proj.weight" in name}


@pytest.mark.vllm
@pytest.mark.parametrize(("way", "tied"), [("merged", True), ("merged", False), ("adapter", True)])
def test_the_engine_samples_from_the_adapted_weights(tmp_path: Path, way: str, tied: bool) -> None:
    pytest.importorskip("vllm")
    path = tiny(tmp_path / "model", tied=tied)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval().to(DEVICE)
    lora.attach(model, LoraConfig(r=4), seed=0)
    lengths = ("model.dtype=float32", "rollout.max_new_tokens=24")
    cfg = config(f"model.path={path}", *lengths, "learner.lora.r=4", f"rollout.lora={way}")
    made = VLLMWorker(cfg, Whole(model), [model.config.eos_token_id], PROBE, tmp_path, lambda _: None)
    try:
        for step in (1, 2):
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if "lora_B" in name:
                        weight.normal_(std=0.1)
            with made.synced(step) as found:
                assert mismatch(made, sample(made, 1), 1.0) < 1e-4
            assert found["mismatch/canary"] < 1e-4
        made.transfer.send = lambda: None  # type: ignore[method-assign]
        with torch.no_grad():
            model.get_parameter("model.layers.0.mlp.up_proj.lora_B.default.weight").add_(1.0)
        with pytest.raises(RunError, match="weights are not the learner's"), made.synced(3):
            pass
    finally:
        made.close()
