"""Starts the ranks of a run on this machine, in the environment that torchrun gives them, and ends them together.

No torch here: the process that watches the others needs none.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pcr_run.errors import Interrupted

REPORT = "PCR_RUN_REPORT"
"""The file in which a rank that we started says why it ends."""
GRACE = 3.0
"""Seconds for the others to end by themselves after one has failed."""


@dataclass(frozen=True)
class Failure:
    """The first rank that failed: its exit code, negative for a signal, and what it said."""

    rank: int
    code: int
    text: str


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def ranks() -> int:
    """How many there are."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else 1


def local_rank() -> int:
    """Which of the ranks on this machine this process is."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_rank() else 0


def local_ranks() -> int:
    """How many there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_rank() else 1


def speaks() -> bool:
    """Whether this process writes the run's records and log."""
    return int(os.environ.get("RANK", "0")) == 0


def started_here() -> bool:
    """Whether this process is a rank that ``run_ranks`` started, and reports to it. It ends with that process."""
    if REPORT not in os.environ:
        return False
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    return True


def report(text: str) -> None:
    """Say why this rank ends."""
    Path(os.environ[REPORT]).write_text(text, encoding="utf-8")


def run_ranks(count: int, command: Sequence[str]) -> Failure | None:
    """Run ``command`` in ``count`` processes; None where all end well, else why not.

    When one fails the others are given ``GRACE`` and killed. A signal is passed on and waited for, a second one kills;
    then ``Interrupted``.
    """
    with tempfile.TemporaryDirectory(prefix="pcr-run-") as reports:
        processes = _start(count, command, Path(reports))
        asked: int | None = None
        try:
            while True:
                try:
                    codes = _ended(processes, asked)
                    break
                except Interrupted as error:
                    if asked is not None:
                        raise
                    asked = error.signal
                    for process in processes:
                        process.send_signal(asked)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if asked is not None:
            raise Interrupted(asked)
        failed = [rank for rank, code in enumerate(codes) if code]
        if not failed:
            return None
        # What was killed ended first; of the others the one that spoke first.
        files = [Path(reports) / str(rank) for rank in range(count)]
        cause = min(failed, key=lambda rank: (codes[rank] >= 0, _when(files[rank])))
        text = files[cause].read_text(encoding="utf-8") if files[cause].exists() else ""
        return Failure(cause, codes[cause], text)


def _start(count: int, command: Sequence[str], reports: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    shared = {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            list(command),
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), REPORT: str(reports / str(rank))},
            process_group=0,  # Ctrl-C reaches them through us, once
        )
        for rank in range(count)
    ]


def _ended(processes: Sequence[subprocess.Popen[bytes]], asked: int | None) -> list[int]:
    """Exit codes of all, once all have ended or some time after one has failed; who was ``asked`` to end has not."""
    end: float | None = None
    well = (None, 0) if asked is None else (None, 0, 128 + asked)
    while True:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return [code or 0 for code in codes]
        if end is None and any(code not in well for code in codes):
            end = time.monotonic() + GRACE
        if end is not None and time.monotonic() > end:
            return [code or 0 for code in codes]  # who still runs is no cause
        time.sleep(0.05)


def _when(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else float("inf")
