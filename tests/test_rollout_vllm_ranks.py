"""Learners in shards, each with an engine of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEVICE
from real_engine import EAGER, SHARE, tiny
from safetensors.torch import load_file

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU for each rank")]


def run(directory: Path, policy: Path, scorer: Path, count: int) -> list[list[dict[str, Any]]]:
    """The steps' metrics and transcripts."""
    command = [
        *(sys.executable, "-P", "-m", "pcr_run", f"launch.nproc={count}", f"hydra.run.dir={directory}"),
        *(f"model.path={policy}", "rollout=vllm", EAGER, *SHARE, "++rollout.engine.kv_cache_memory_bytes=67108864"),
        *("steps=2", "rollout.prompts=3", "rollout.group=4", "rollout.max_new_tokens=8", "learner.microbatch=4"),
        *("learner.lr=1e-2", "reward=model", f"reward.path={scorer}", "resolver=pcr", "evaluation=none"),
        *("tracker=none", "tracker.transcripts=12", "rollout.start_seconds=1200"),
    ]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [[json.loads(line) for line in (directory / f"{name}.jsonl").open()] for name in ("metrics", "rollouts")]


def test_ranks_sample_what_one_process_samples_and_learn_from_it(scorer: Path, tmp_path: Path) -> None:
    policy = tiny(tmp_path / "model")
    metrics, rollouts = run(tmp_path / "shared", policy, scorer, 2)
    for rank in ("", "-1"):
        assert "Reloading weights inplace" in (tmp_path / "shared" / f"engine{rank}.log").read_text()
    assert [line["step"] for line in metrics] == [1, 2]
    assert all(0 < line["mismatch/canary"] < 1e-4 for line in metrics)
    assert all(line["grad_norm"] > 0 for line in metrics)
    before, after = (load_file(file / "model.safetensors") for file in (policy, tmp_path / "shared" / "final"))
    assert all((before[name] != after[name]).any() for name in before)
    alone, sampled = run(tmp_path / "alone", policy, scorer, 1)
    first = [[line for line in lines if line["step"] == 1] for lines in (rollouts, sampled)]
    same = [one["response"] == other["response"] for one, other in zip(*first, strict=True)]
    assert sum(same) / len(same) > 0.9  # rounding may differ with what else is in a batch
    if all(same):
        assert metrics[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-3)
