"""What can be said of the engine's side without an engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcr_run.errors import ConfigError, RunError
from pcr_run.rollout import canary
from pcr_run.rollout.engine import Engine, EngineError
from pcr_run.rollout.keeper import descendants
from pcr_run.rollout.transfer import backend
from pcr_run.schema import RolloutConfig

TREE = """
import os, signal, sys, time
from multiprocessing import get_context, resource_tracker
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")  # nobody else would clean up
lock = get_context("spawn").Lock()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1], "w").write(f"{os.getpid()} {memory._name} {lock._semlock.name}")
    else:
        os._exit(0)
time.sleep(600)
"""


def tree(tmp_path: Path, inside: str) -> tuple[subprocess.Popen[bytes], int, list[Path]]:
    """A keeper (started by a process of its own), the pid of a daemon under it, and what must go."""
    note, scratch = tmp_path / "note", tmp_path / "scratch"
    scratch.mkdir()
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "pcr_run.rollout.keeper", str(theirs.fileno()), str(scratch), "--"]
    command += [sys.executable, "-c", inside, str(note)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], start_new_session=True)
    ours.close()
    theirs.close()
    end = time.monotonic() + 60
    while not (note.exists() and len(note.read_text().split()) == 3):
        assert time.monotonic() < end
        time.sleep(0.05)
    pid, memory, lock = note.read_text().split()
    shared = Path("/dev/shm")
    return owner, int(pid), [shared / memory.strip("/"), shared / f"sem.{lock.strip('/')}", scratch]


def test_the_keeper_starts_at_once() -> None:
    heavy = "import sys, pcr_run.rollout.keeper; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], check=True, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("how", ["the run ends", "the engine dies"])
def test_the_keeper_leaves_no_process_and_no_file(tmp_path: Path, how: str) -> None:
    keeper, daemon, files = tree(tmp_path, TREE)
    assert all(file.exists() for file in files)
    below = list(descendants(keeper.pid))
    assert daemon in below
    assert keeper.stdin is not None
    if how == "the run ends":
        keeper.stdin.close()
    else:
        time.sleep(2.5)  # what a process had mapped must have been seen before it died
        for pid in below:
            os.kill(pid, signal.SIGKILL)
    keeper.wait(20)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert not [file for file in files if file.exists()]


@pytest.mark.parametrize(
    ("transfer", "gpus", "device", "expected"),
    [
        ("auto", None, "cpu", "files"),
        ("auto", None, "cuda", "ipc"),
        ("auto", "1", "cuda", "nccl"),
        ("files", "1", "cuda", "files"),
        ("files", None, "cuda", "files"),
        ("nccl", "1,2", "cuda", "nccl"),
    ],
)
def test_weights_take_the_fastest_way_that_the_devices_have(
    transfer: str, gpus: str | None, device: str, expected: str
) -> None:
    assert backend(RolloutConfig(name="vllm", transfer=transfer, gpus=gpus), device) == expected


@pytest.mark.parametrize(
    ("transfer", "gpus", "device", "key"),
    [
        ("ipc", None, "cpu", "rollout.transfer: ipc"),
        ("nccl", None, "cpu", "rollout.transfer: nccl"),
        ("nccl", None, "cuda", "rollout.transfer: nccl"),
        ("ipc", "1", "cuda", "rollout.transfer: ipc"),
        ("auto", "1", "cpu", "rollout.gpus: 1"),
    ],
)
def test_a_way_that_the_devices_do_not_have_is_refused(transfer: str, gpus: str | None, device: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        backend(RolloutConfig(name="vllm", transfer=transfer, gpus=gpus), device)


def test_the_canary_refuses_differences_beyond_rounding_and_what_is_no_number() -> None:
    assert canary.compare([-1.0, -2.0], [-1.00001, -2.0], 1e-4, 3) == pytest.approx(1e-5)
    with pytest.raises(RunError, match=r"before step 3 .* at 1 of 2 tokens, most at token 2 .*allows 0\.0001"):
        canary.compare([-1.0, -2.0], [-1.0, -2.1], 1e-4, 3)
    with pytest.raises(RunError, match="engine nan"):
        canary.compare([float("nan"), -2.0], [-1.0, -2.0], 1e-4, 3)


ANSWERS = """
import sys
from multiprocessing.connection import Connection
from pcr_run.rollout.answer import answer
class Server:
    def count(self, n):
        yield from range(n)
    def double(self, x):
        return 2 * x
answer(Connection(int(sys.argv[1])), lambda arguments: Server())
"""


def test_an_answer_that_was_not_read_to_its_end_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text(ANSWERS)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    started = {"seconds": 60, "status": lambda text: None, "module": "answers", "name": "the counter"}
    engine = Engine({}, None, tmp_path / "engine.log", {"PYTHONPATH": path}, **started)
    try:
        assert list(engine.stream("count", 3)) == [0, 1, 2]
        with pytest.raises(EngineError, match="TypeError"):
            engine.ask("double", None)
        assert engine.ask("double", 2) == 4
        answers = engine.stream("count", 3)
        assert next(answers) == 0
        answers.close()
        with pytest.raises(RunError, match="the counter: an answer was not read to its end"):
            engine.ask("double", 2)
    finally:
        engine.close()
