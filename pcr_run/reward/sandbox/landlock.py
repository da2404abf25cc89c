"""Isolation without any privilege: Landlock for files, seccomp for the rest. For containers without user namespaces.

References: landlock(7), Documentation/userspace-api/landlock.rst, capset(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
MINIMUM = 3  # the first version that restricts truncation

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Landlock version of the running kernel; 0 where it is missing or switched off."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, 0, 1))


# From here on: what a child does between fork and exec, where coverage is not measured.
def _call(result: int) -> int:  # pragma: no cover
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def enter(paths: Sequence[str], filter_program: bytes) -> None:  # pragma: no cover
    """Shut the calling process in for ever: it may read ``paths`` and make the system calls of the filter."""
    _call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _drop_capabilities()
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    abi = version()
    files = (1 << (16 if abi >= 5 else 15)) - 1
    attributes = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_libc.syscall(_CREATE_RULESET, attributes, size, 0))
    for path in paths:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    _allow(ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
    _allow(ruleset, "/dev/urandom", _READ_FILE)
    _call(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    code = ctypes.create_string_buffer(filter_program, len(filter_program))
    fprog = struct.pack("HxxxxxxP", len(filter_program) // 8, ctypes.addressof(code))
    _call(_libc.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0))


def _allow(ruleset: int, path: str, access: int) -> None:  # pragma: no cover
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _call(_libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, target), 0))
    os.close(target)


def _drop_capabilities() -> None:  # pragma: no cover
    """Root without capabilities is an ordinary user; without rights this changes nothing."""
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _call(_libc.syscall(_CAPSET[os.uname().machine], header, bytes(24)))
