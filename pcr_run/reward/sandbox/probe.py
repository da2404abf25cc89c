"""Which isolation works on this machine: each candidate has to run a program and to keep it in."""

from __future__ import annotations

import functools
from dataclasses import asdict

from pcr_run.data import CodeTests
from pcr_run.errors import ConfigError
from pcr_run.reward.sandbox import landlock, seccomp
from pcr_run.reward.sandbox.isolation import LEVELS, Isolation, candidates
from pcr_run.reward.workers import Pool
from pcr_run.schema import SandboxConfig

_PROGRAM = """
import os
def attempt(action):
    try:
        action()
    except OSError:
        return False
    return True
def open_doors():
    import socket
    actions = {"files": lambda: os.listdir("/etc"), "network": socket.socket, "processes": os.fork}
    return [name for name, action in actions.items() if attempt(action)]
"""
_TESTS = CodeTests("open_doors", ("assert open_doors() == []",))


@functools.cache
def _choose(level: str) -> Isolation:
    found = candidates(level)
    pool = Pool(1)
    shared = {"kind": "code", "tests": asdict(_TESTS), "program": _PROGRAM, "partial": False}
    shared["sandbox"] = asdict(SandboxConfig())
    try:
        replies = pool.map([{**shared, "isolation": asdict(isolation)} for isolation in found], 30.0)
    finally:
        pool.close()
    failures = []
    for isolation, reply in zip(found, replies, strict=True):
        if reply and reply["verdict"] == "correct":
            return isolation
        failures.append(f"{isolation.bwrap or isolation.level}: {reply['detail'] if reply else 'no answer'}")
    raise ConfigError("sandbox.isolation", f"{level} does not work here. {_missing(level, failures)}")


def isolation(sandbox: SandboxConfig) -> Isolation:
    """The strongest isolation of the level asked for; raises ConfigError that says what is missing."""
    if sandbox.isolation not in ("auto", *LEVELS):
        raise ConfigError("sandbox.isolation", f"unknown level {sandbox.isolation!r}; choose auto, {', '.join(LEVELS)}")
    return _choose(sandbox.isolation)


def _missing(level: str, failures: list[str]) -> str:
    reasons = []
    if not seccomp.supported():
        reasons.append("seccomp: this needs Linux on x86_64 or aarch64")
    if level != "landlock":
        tried = "; ".join(failure for failure in failures if not failure.startswith("landlock"))
        reasons.append(
            f"bubblewrap: {tried or 'no bwrap program'} (it needs unprivileged user namespaces: install bubblewrap "
            "with your system; in a container allow them, see docs/security.md)"
        )
    if level != "bubblewrap":
        tried = "; ".join(failure for failure in failures if failure.startswith("landlock"))
        version = landlock.version()
        reasons.append(tried or f"landlock: version {version} of the kernel's, {landlock.MINIMUM} needed (Linux 6.2)")
    return " ".join(reasons)
