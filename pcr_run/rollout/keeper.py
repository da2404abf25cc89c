"""The process between a run and its engine: when either ends, in whatever way, nothing of the engine stays behind.

``python -m pcr_run.rollout.keeper SOCKET DIRECTORY... -- COMMAND...`` starts COMMAND in a session of its own, with the
file descriptor SOCKET, and waits until it ends or until standard input ends, which it does when the run is gone, killed
or not. Then every process that descends from COMMAND is killed, and the shared-memory files that they had mapped and
the DIRECTORYs are removed. Needs Linux (/proc); imports the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SHARED = Path("/dev/shm")
LOOK = 2.0
"""Seconds between two looks at which shared memory is in use: the files of a process that died cannot be found out."""


def descendants(root: int) -> Iterator[int]:
    """Process ids of the children of ``root``, their children and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    waiting = [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        yield from children
        waiting += children


def shared_memory(pid: int) -> set[int]:
    """Inodes of shared memory that a process has mapped. Not names: semaphores are renamed after they are mapped."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        return {int(line.split()[4]) for line in lines if "/dev/shm/" in line}
    return set()


def end(used: set[int]) -> None:
    """Kill all descendants, also those that appear while we do, and remove their shared memory."""
    while found := list(descendants(os.getpid())):
        for pid in found:
            used |= shared_memory(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    for file in SHARED.iterdir():
        with contextlib.suppress(OSError):  # gone already
            if file.stat().st_ino in used:
                file.unlink()


def main() -> None:
    """See the module."""
    split = sys.argv.index("--")
    socket, directories, command = int(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run decides; a terminal's Ctrl-C reaches it as well
    # Orphans of the engine become our children instead of init's, so none can get out of sight.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[socket], start_new_session=True)
    os.close(socket)
    events = select.poll()
    events.register(0, select.POLLIN)
    used: set[int] = set()
    looked = 0.0
    while not events.poll(100) and engine.poll() is None:
        if time.monotonic() - looked > LOOK:
            used |= {inode for pid in descendants(os.getpid()) for inode in shared_memory(pid)}
            looked = time.monotonic()
    end(used)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
