"""A pool of worker processes that are owned, watched and, when a job outlives its limit, killed and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pcr_run
from pcr_run.errors import RunError
from pcr_run.reward.printable import printable

START = 60.0
"""Wall-clock seconds within which a worker has to be ready."""

ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "TZ")
"""All that a worker gets of the environment: no token, no home."""


class _Worker:
    """One process, the leader of its own process group, with at most one job."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        root = str(Path(pcr_run.__file__).parent.parent)
        self._complaints = os.memfd_create("complaints")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pcr_run.reward.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                cwd="/",
                env={**environment, "PYTHONPATH": root, "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        except OSError as problem:  # no memory, no process left in the cgroup, ...
            os.close(self._complaints)
            raise RunError(f"no worker process for rewards can be started: {problem}") from problem
        self.job = -1
        self.ready = False
        self.deadline = 0.0
        self.answer = b""

    @property
    def out(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, number: int, job: dict[str, Any], seconds: float) -> None:
        """Hand over a job; an idle worker reads it at once."""
        assert self.process.stdin is not None
        self.job, self.answer, self.seconds = number, b"", seconds
        self.deadline = time.monotonic() + (seconds if self.ready else START)
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> bool:
        """Take what it wrote; whether that ends its job: with an answer, or without one because it died."""
        part = os.read(self.out, 1 << 16)
        self.answer += part
        if not self.ready and b"\n" in self.answer:
            self.ready, self.deadline = True, time.monotonic() + self.seconds
            self.answer = self.answer.partition(b"\n")[2]
        return not part or self.answer.endswith(b"\n")

    def kill(self) -> None:
        """End the whole group and reap it. ``why``: the last line of its standard error, or how it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        size = os.fstat(self._complaints).st_size
        lines = os.pread(self._complaints, 4096, max(0, size - 4096)).decode(errors="replace").splitlines()
        self.why = printable(lines[-1]) if lines else f"exit code {self.process.returncode}"
        os.close(self._complaints)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Pool:
    """``size`` workers, started when first needed. RunError, with the reason, where none can start."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def map(self, jobs: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any] | None]:
        """An answer a job, in order; None for a job whose worker died or was killed after ``seconds`` (wall clock)."""
        try:
            return self._map(jobs, seconds)
        finally:  # none is busy, unless this was interrupted: then their answers belong to no later call
            for worker in self._busy:
                worker.kill()
            self._busy = []

    def _map(self, jobs: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any] | None]:
        answers: list[dict[str, Any] | None] = [None] * len(jobs)
        waiting = list(range(len(jobs)))[::-1]
        with selectors.DefaultSelector() as selector:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.size:
                    self._start(waiting.pop(), jobs, seconds, selector)
                now = time.monotonic()
                ready = {key.fd for key, _ in selector.select(max(0, min(w.deadline for w in self._busy) - now))}
                for worker in list(self._busy):
                    late = time.monotonic() >= worker.deadline
                    if not (worker.read() if worker.out in ready else late):
                        continue
                    selector.unregister(worker.out)
                    self._busy.remove(worker)
                    if worker.answer.endswith(b"\n"):
                        answers[worker.job] = json.loads(worker.answer)
                        self._idle.append(worker)
                        continue
                    worker.kill()
                    if not worker.ready:
                        reason = f"not ready after {START:g} s" if late else worker.why
                        raise RunError(f"a worker process for rewards did not start: {reason}")
        return answers

    def _start(self, number: int, jobs: Sequence[dict[str, Any]], seconds: float, selector: Any) -> None:
        while True:
            worker = self._idle.pop() if self._idle else _Worker()
            try:
                worker.send(number, jobs[number], seconds)
            except BrokenPipeError:  # it died while it was idle, or as it started
                worker.kill()
                if not worker.ready:
                    raise RunError(f"a worker process for rewards did not start: {worker.why}") from None
                continue
            self._busy.append(worker)
            selector.register(worker.out, selectors.EVENT_READ)
            return

    def close(self) -> None:
        """Kill all workers."""
        for worker in self._idle + self._busy:
            worker.kill()
        self._idle, self._busy = [], []
