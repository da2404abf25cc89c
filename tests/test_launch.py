"""Whole runs of several processes: the records of one, checkpoints for any number, and how they end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pcr_run.distributed import launch
from pcr_run.errors import Interrupted

pytest_plugins = ["command_line"]

COMMAND = [
    *(sys.executable, "-P", "-m", "pcr_run", "steps=3", "rollout.prompts=4", "rollout.group=4", "learner.microbatch=8"),
    *("learner.tokens=null", "learner.minibatches=2", "evaluation.questions=4", "evaluation.n=2", "evaluation.every=2"),
    *(
        "checkpoint.every=1",
        "rollout.max_new_tokens=8",
        "learner.lr=1e-3",
        "reward=model",
        "tracker.wandb.mode=disabled",
    ),
    *("resolver=pcr", "tracker.transcripts=100", "launch.timeout=60"),
]


@pytest.fixture
def start(untrained: Path, scorer: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def call(directory: Path, count: int, *more: str) -> subprocess.Popen[str]:
        places = (f"model.path={untrained}", f"reward.path={scorer}", f"hydra.run.dir={directory}")
        command = [*COMMAND, *places, f"launch.nproc={count}", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return call


def ends(process: subprocess.Popen[str], code: int = 0) -> str:
    _, errors = process.communicate(timeout=280)
    assert process.returncode == code, errors
    return errors


def lines(directory: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))} for line in found]


def same(left: Path, right: Path) -> None:
    for name in ("metrics", "layers", "rollouts", "evaluations"):
        a, b = lines(left, name), lines(right, name)
        assert len(a) == len(b) > 0
        for one, other in zip(a, b, strict=True):
            near(one, other)
    files = sorted(file.relative_to(left) for file in (left / "final").rglob("*.safetensors"))
    assert files == sorted(file.relative_to(right) for file in (right / "final").rglob("*.safetensors")) != []
    for file in files:
        a, b = load_file(left / file), load_file(right / file)
        assert a.keys() == b.keys()
        for name, weight in a.items():
            assert (weight - b[name]).abs().max() < 1e-4, name


def near(one: Any, other: Any) -> None:
    """Equal, numbers up to what float32 leaves of them after some steps."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            near(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for value, another in zip(one, other, strict=True):
            near(value, another)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-2, abs=2e-3)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("learner.lora.r=4", "learner.lora.merge=true", "learner.lr=1e-2")])
def test_records_are_those_of_one_process_and_checkpoints_fit_any_number(
    start: Any, tmp_path: Path, more: tuple[str, ...]
) -> None:
    if more:
        pytest.importorskip("peft")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for directory, count in ((alone, 1), (shared, 2)):
        ends(start(directory, count, *more))
    same(alone, shared)
    AutoModelForCausalLM.from_pretrained(shared / "final")
    for origin, count, offload in ((shared, 1, "false"), (shared, 1, "true"), (alone, 2, "true"), (shared, 3, "false")):
        again = tmp_path / f"{origin.name}-{count}-{offload}"
        shutil.copytree(origin, again)
        shutil.rmtree(again / "final")
        shutil.rmtree(again / "checkpoints" / "step-000003")
        (again / "result.json").unlink()
        ends(start(again, count, *more, f"launch.offload={offload}"))
        assert json.loads((again / "result.json").read_text())["resumed_from"] == [2]
        same(alone, again)


def ranks_of(process: subprocess.Popen[str], count: int) -> list[int]:
    """Process ids by rank."""
    found: dict[int, int] = {}
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in map(int, children.read_text().split()):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(entry[5:]): child for entry in environment if entry.startswith(b"RANK=")}
    return [found[rank] for rank in range(count)]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time, signal; rank = int(os.environ['RANK']); {text}"]


def test_ranks_that_end_well() -> None:
    assert launch.run_ranks(3, python("assert os.environ['WORLD_SIZE'] == '3' and rank < 3")) is None


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        (
            "open(os.environ['PCR_RUN_REPORT'], 'w').write('learner.lr: too high'), sys.exit(2)",
            2,
            "learner.lr: too high",
        ),
    ],
)
def test_one_that_fails_ends_the_others(last: str, code: int, text: str) -> None:
    began = time.monotonic()
    command = python(f"({last}) if rank == 1 else time.sleep(60)")
    assert launch.run_ranks(2, command) == launch.Failure(1, code, text)
    assert time.monotonic() - began < 20


def test_the_cause_is_what_was_killed_not_who_noticed() -> None:
    notice = "(time.sleep(0.5), sys.exit(1))"
    command = python(f"os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else {notice}")
    assert launch.run_ranks(2, command) == launch.Failure(1, -9, "")


def test_ranks_that_were_asked_to_end_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has more to do at the end."""
    monkeypatch.setattr(launch, "GRACE", 0.1)
    ended = "(time.sleep(2 * (rank == 0)), open(f'{rank} ended', 'w').close(), os._exit(143))"
    work = f"signal.signal(signal.SIGTERM, lambda *_: {ended}); open(f'{{rank}}', 'w').close(); time.sleep(60)"
    monkeypatch.chdir(tmp_path)

    def ask() -> None:
        while not (Path("0").exists() and Path("1").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(number: int, _frame: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        threading.Thread(target=ask, daemon=True).start()
        with pytest.raises(Interrupted):
            launch.run_ranks(2, python(work))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Path("0 ended").exists()


def test_what_processes_cannot_share_is_refused(command: Callable[..., Any]) -> None:
    for key, given in (
        ("learner.reference_device", "learner.reference_device=cpu"),
        ("device", "device=cuda:1"),
        ("learner.optimizer", "learner.optimizer=adamw8bit"),
        ("launch.nproc", "launch.nproc=0"),
    ):
        ended = command("launch.nproc=2", given)
        assert ended.code == 2
        assert ended.err.startswith(f"pcr-run: error: {key}: ")


def test_what_all_ranks_would_say_is_said_once(shell: Callable[..., Any]) -> None:
    process = shell("launch.nproc=2", "learner.kl=k1")
    assert ends(process).count("WARNING: learner.kl: k1 has zero expected gradient") == 1


def test_weights_that_are_not_on_a_gpu_cannot_go_to_vllm(command: Callable[..., Any]) -> None:
    ended = command("launch.offload=true", "rollout=vllm")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: rollout.name: vllm takes weights from the learner's GPU")


def test_ranks_of_torchrun_are_refused_the_same(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = command("device=cuda:1")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: device: ")
    assert " 2" in ended.err


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(start: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "run", 2, "steps=400", "evaluation=none")
    wait_for(tmp_path / "run" / "checkpoints" / "step-000001", process)
    ranks = ranks_of(process, 2)
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    errors = ends(process, 1)
    assert time.monotonic() - began < 10
    assert errors.count("error:") == 1
    assert "rank 1 was killed by SIGKILL" in errors
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "rank 1" in result["reason"]
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    step = int(newest.name[5:])
    process = start(tmp_path / "run", 2, "steps=400", "evaluation=none", "launch.timeout=5")
    wait_for(tmp_path / "run" / "checkpoints" / f"step-{step + 2:06d}", process)
    os.kill(ranks_of(process, 2)[0], signal.SIGSTOP)  # it hangs: the other one waits for launch.timeout
    began = time.monotonic()
    errors = ends(process, 1)
    assert 3 < time.monotonic() - began < 20
    assert "launch.timeout=5" in errors
    process = start(tmp_path / "run", 2, "steps=400", "evaluation=none")
    wait_for(tmp_path / "run" / "checkpoints" / f"step-{step + 4:06d}", process)
    process.send_signal(signal.SIGTERM)
    errors = ends(process, 143)
    assert "goes on from the newest checkpoint" in errors
