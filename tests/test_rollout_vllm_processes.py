"""The real engine's processes: how they start, are found dead, started again, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEVICE
from real_engine import EAGER, SHARE, mismatch, move, processes, sample, tiny, worker

from pcr_run.errors import ConfigError, RunError
from pcr_run.rollout.keeper import descendants, shared_memory

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm


def orphaned() -> set[str]:
    """What lies in shared memory and belongs to no process (other engines may run on this machine)."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    used = {inode for pid in pids for inode in shared_memory(pid)}
    commands = ""
    for pid in pids:
        with contextlib.suppress(OSError):
            commands += Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    files = list(Path("/dev/shm").iterdir())
    return {file.name for file in files if file.stat().st_ino not in used and str(file) not in commands}


def nothing_new(before: set[str]) -> bool:
    """Whether what was left behind is gone, within seconds."""
    end = time.monotonic() + 10
    while orphaned() - before and time.monotonic() < end:
        time.sleep(0.1)
    return not orphaned() - before


def test_a_dead_engine_is_started_again_and_the_rest_of_the_step_redone(tmp_path: Path) -> None:
    before = orphaned()
    engine = worker(tiny(tmp_path / "model"), tmp_path, "rollout.restarts=1")
    move(engine.model)
    with engine.synced(1):
        expected = sample(engine, 1)
        core = next(pid for name, pid in processes(engine).items() if "EngineCore" in name)
        os.kill(core, signal.SIGKILL)
        found = sample(engine, 1)
        assert [one.token_ids for group in found for one in group] == [
            one.token_ids for group in expected for one in group
        ]
        assert mismatch(engine, found) < 1e-4
    with engine.synced(2) as metrics:
        assert metrics["perf/engine_restarts"] == 1
        tree = processes(engine)
        last = "VLLM::Worker" if DEVICE.type == "cpu" else "VLLM::EngineCore"  # which does the work itself on one GPU
        os.kill(next(pid for name, pid in tree.items() if last in name), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(RunError, match=r"died 2 times .*restarts=1.*engine\.log"):
            sample(engine, 1)
        assert time.monotonic() - start < 20
    engine.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in tree.values())
    assert nothing_new(before)


def test_what_the_engine_cannot_be_given_is_said_before_it_starts(tmp_path: Path) -> None:
    path = tiny(tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"rollout\.max_new_tokens: prompt and response may have \d+ tokens, the model takes 512"
    ):
        worker(path, tmp_path, "rollout.max_prompt_tokens=600")
    with pytest.raises(ConfigError, match=r"rollout\.engine\.max_model_len: 40 is below"):
        worker(path, tmp_path, "rollout.engine.max_model_len=40")


def test_an_engine_that_does_not_start_leaves_a_reason_and_nothing_else(tmp_path: Path) -> None:
    before = orphaned()
    with pytest.raises(RunError, match=r"vLLM does not start \(.*engine\.log"):
        worker(tiny(tmp_path / "model"), tmp_path, "++rollout.engine.kv_cache_memory_bytes=1000000000000000")
    with pytest.raises(RunError, match=r"did not start in 1 s \(rollout\.start_seconds\)"):
        worker(tiny(tmp_path / "model"), tmp_path, "rollout.start_seconds=1")
    assert nothing_new(before)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="attention on GPUs takes more sizes of heads")
def test_an_engine_that_dies_of_its_first_prompt_is_not_started_again(tmp_path: Path) -> None:
    before = orphaned()
    engine = worker(tiny(tmp_path / "odd", heads=4), tmp_path)
    with pytest.raises(
        RunError, match=r"died at its first prompt \(RuntimeError: Unsupported CPU attention.*head_dim=16"
    ):
        engine.synced(1).__enter__()
    engine.close()
    assert nothing_new(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind_a_run_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    before = orphaned()
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "pcr_run.cli", "rollout=vllm", EAGER, f"hydra.run.dir={run}", "steps=1000"),
        *(f"model.path={tiny(tmp_path / 'model')}", "evaluation=none", "tracker.wandb.mode=disabled", *SHARE),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # bound to cores
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 240
        while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.1)
        tree = list(descendants(process.pid))
        assert len(tree) >= (4 if DEVICE.type == "cpu" else 3)  # keeper, server, core, and on the CPU a worker
        process.send_signal(number)
        code = process.wait(60)
    finally:
        process.kill()
    assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    end = time.monotonic() + 10
    while left := [pid for pid in tree if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert nothing_new(before)
    if number == signal.SIGTERM:
        assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
