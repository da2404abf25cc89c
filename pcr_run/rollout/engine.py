"""The run's side of an engine in a process tree of its own: start it, ask it, notice its death, end it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pcr_run.errors import RunError

QUIET = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


OF_A_RANK = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables of a rank's environment that would make an engine take itself for that rank; TORCHELASTIC_* are others."""


class EngineDeadError(Exception):
    """The engine's process is gone; the run may start it again."""


class EngineError(Exception):
    """The engine refused a request and goes on."""


class Engine:
    """A running vLLM, or another ``module`` that answers as ``answer.py`` does, told of as ``name``.

    ``arguments``: what it is made of, of vLLM's ``LLM``. ``weights``: a directory in shared memory that ends with the
    engine, if any. ``log``: file to which the engine's output is appended. ``environment``: added to the process's.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        weights: Path | None,
        log: Path,
        environment: dict[str, str],
        *,
        seconds: float,
        status: Callable[[str], None],
        module: str = "pcr_run.rollout.server",
        name: str = "vLLM",
    ) -> None:
        self.name = name
        self.owes = False  # an answer that was asked for has not come to its end
        self.log, self.logged = log, log.stat().st_size if log.exists() else 0
        scratch = short_temporary_directory()
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        server = [sys.executable, "-P", "-m", module, str(theirs.fileno())]
        keeper = [
            sys.executable,
            "-P",
            "-m",
            "pcr_run.rollout.keeper",
            str(theirs.fileno()),
            str(scratch),
            *([] if weights is None else [str(weights)]),
        ]
        with log.open("ab") as output:
            self.keeper = subprocess.Popen(
                [*keeper, "--", *server],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env={**without_rank(os.environ), **QUIET, **environment, "TMPDIR": str(scratch)},
                start_new_session=True,
            )
        theirs.close()
        try:
            self._started(arguments, seconds, status)
        except BaseException:
            self.close()
            raise

    def _started(self, arguments: dict[str, Any], seconds: float, status: Callable[[str], None]) -> None:
        """Wait until the engine answers, telling how long it takes."""
        start = time.monotonic()
        status(f"starting {self.name}")
        self._send(arguments)
        while not self.connection.poll(5):
            waited = time.monotonic() - start
            status(f"starting {self.name}, {waited:.0f} s of at most {seconds:g}")
            if waited > seconds:
                raise RunError(f"{self.name} did not start in {seconds:g} s (rollout.start_seconds); see {self.log}")
        try:
            self._receive()
        except (EngineDeadError, EngineError) as error:
            raise RunError(f"{self.name} does not start ({self._why(str(error))}); see {self.log}") from error

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the server. Raises EngineDeadError, or EngineError for what the engine refuses."""
        self._send((method, arguments))
        return self._receive()[1]

    def stream(self, method: str, *arguments: Any) -> Iterator[Any]:
        """The same for a method that yields; who does not read it to its end cannot ask this engine again."""
        self._send((method, arguments))
        while (answer := self._receive())[0] == "item":
            yield answer[1]

    def _send(self, message: Any) -> None:
        if self.owes:  # what comes next would be taken for the answer to this
            raise RunError(f"{self.name}: an answer was not read to its end, so nothing more can be asked")
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EngineDeadError(self._why()) from error
        self.owes = True

    def _receive(self) -> tuple[str, Any]:
        """("item", value) or ("done", value)."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError) as error:  # OSError: also in the middle of a message
            self.owes = False
            raise EngineDeadError(self._why()) from error
        self.owes = kind == "item"
        if kind == "error":
            raise EngineError(value)
        return kind, value

    def _why(self, unknown: str = "its process ended without a word") -> str:
        """The first error that this engine logged: those after it follow from it."""
        with self.log.open(errors="replace") as log:
            log.seek(self.logged)
            for line in log:
                if found := re.search(r" ERROR .*?(\w+(?:Error|Exception): .+)", line):
                    return found[1][:300]
        return unknown

    def close(self) -> None:
        """End the engine's whole process tree; files in shared memory and the weights' directory go with it."""
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()
        self.keeper.wait()
        self.connection.close()


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is no rank."""
    return {
        name: value
        for name, value in environment.items()
        if name not in OF_A_RANK and not name.startswith("TORCHELASTIC_")
    }


def short_temporary_directory() -> Path:
    """A private directory. Unix sockets are made in it, and their paths may have a hundred characters only."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="pcr-run-", dir=usual if len(usual) < 40 else "/tmp"))


def shared_directory(size: int) -> Path:
    """A private directory for ``size`` bytes: in shared memory if they fit there twice, else on disk."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 * size
    return Path(tempfile.mkdtemp(prefix="pcr-run-", dir=shared if roomy else None))
