"""Runs one item's tests here, on the trusted side, against a candidate that lives in a sandbox.

The candidate never sees the tests and never writes a verdict: it is called through ``Guest`` and can only return or
raise plain data. That data may still slow this process down, so it runs under limits of its own (worker.py).
"""

from __future__ import annotations

import builtins
import contextlib
import os
import select
import time
from dataclasses import dataclass
from typing import Any

from pcr_run.config import SandboxConfig
from pcr_run.data import CodeTests, Verdict
from pcr_run.reward.isolation import Process
from pcr_run.reward.plain import NotPlainError, decode, encode

MAX_MESSAGE = 8 << 20


@dataclass(frozen=True)
class Judged:
    """Outcome of one item: the verdict, the share of its tests that passed, and what went wrong."""

    verdict: Verdict
    passed: float = 0.0
    detail: str = ""


class Ended(BaseException):  # noqa: N818 - no Exception, so that a test's own `except Exception` lets it through
    """The candidate's process cannot go on."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(detail)
        self.verdict: Verdict = verdict
        self.detail = detail


class CandidateError(Exception):
    """The candidate raised something that is no builtin exception, or returned something that is no plain data."""


class Guest:
    """The candidate as a function. Lists, dicts and sets among the arguments are changed as the candidate does."""

    def __init__(self, process: Process, limits: SandboxConfig) -> None:
        self.ended: Ended | None = None
        self._process = process
        self._seconds = limits.seconds
        self._deadline = time.monotonic() + limits.wall_seconds

    def load(self, source: str, entry_point: str | None) -> None:
        """Define the candidate; raises Ended when that fails."""
        try:
            self._receive()
        except Ended as problem:
            raise Ended("error", "the sandbox did not start") from problem
        self.ended = None
        self._process.started()
        self._send(encode((entry_point, source))[0])
        kind, what = self._receive()
        if kind == "unparsed":
            raise self._end("unparsed", str(what)[:200])
        if kind != "defined":
            raise self._end("wrong", f"defining it raised {what}"[:200])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.ended:
            raise self.ended
        try:
            message, originals = encode((args, kwargs))
        except NotPlainError as problem:
            raise self._end("error", f"a test passes a {problem}, which is no plain data") from None
        self._send(message)
        kind, what = self._receive(originals)
        if kind == "returned":
            return what
        if kind == "raised":
            raise _exception(what)
        raise CandidateError(f"returned a {what}")

    def _end(self, verdict: Verdict, detail: str) -> Ended:
        self.ended = Ended(verdict, detail)
        return self.ended

    def _send(self, message: str) -> None:
        data = message.encode("ascii")
        view = memoryview(len(data).to_bytes(8, "big") + data)
        os.set_blocking(self._process.outbox, False)
        while view:
            self._wait([], [self._process.outbox])
            try:
                view = view[os.write(self._process.outbox, view) :]
            except BrokenPipeError:
                raise self._end("wrong", "the program ended early") from None

    def _receive(self, originals: list[Any] | None = None) -> tuple[Any, Any]:
        size = int.from_bytes(self._read(8), "big")
        if size > MAX_MESSAGE:
            raise self._end("refused", "the program returned too much")
        try:
            reply, _ = decode(self._read(size).decode("ascii"), originals or [])
            kind, what, *_ = reply
        except (NotPlainError, ValueError, TypeError) as problem:
            raise self._end("refused", f"the program returned no plain data: {problem}") from None
        return kind, what

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait([self._process.inbox], [])
            part = os.read(self._process.inbox, min(size - len(data), 1 << 20))
            if not part:
                raise self._end("wrong", "the program ended early")
            data += part
        return bytes(data)

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        while True:
            cpu = self._seconds - self._process.cpu()
            if cpu <= 0:
                raise self._end("timeout", f"used {self._seconds} s of CPU time")
            wall = self._deadline - time.monotonic()
            if wall <= 0:
                raise self._end("stalled", "the wall clock ran out")
            if any(select.select(readable, writable, [], min(wall, cpu + 0.001))):
                return


def _exception(what: Any) -> Exception:
    """The builtin exception that was raised in the sandbox, by name, else CandidateError."""
    *names, text = [str(part) for part in what] if isinstance(what, list) and what else ["", ""]
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            with contextlib.suppress(TypeError):  # UnicodeError and its kin want more arguments
                return kind(text)
    return CandidateError(f"{names[:1]}: {text}")


def judge(tests: CodeTests, program: str, limits: SandboxConfig, bwrap: str, partial: bool) -> Judged:
    """Run all tests of one item. With ``partial`` the tests after a failed one are run too."""
    source = f"{tests.preamble}\n{program}" if tests.preamble else program
    if tests.entry_point is None:
        return _programs(tests, source, limits, bwrap, partial)
    return _functions(tests, source, limits, bwrap, partial)


def _functions(tests: CodeTests, source: str, limits: SandboxConfig, bwrap: str, partial: bool) -> Judged:
    assert tests.entry_point is not None
    process = Process(bwrap, limits)
    guest = Guest(process, limits)
    passed, detail, ended = 0, "", None
    try:
        guest.load(source, tests.entry_point)
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(tests.setup, namespace)
        namespace[tests.entry_point] = guest
        for number, block in enumerate(tests.tests):
            try:
                exec(block, namespace)
                passed += not guest.ended
            except Exception as problem:
                detail = detail or f"test {number}: {type(problem).__name__}: {problem}"[:200]
                if not partial:
                    break
            if guest.ended:
                break
    except Ended as problem:
        ended = problem
    finally:
        cpu = process.close()
    share = passed / len(tests.tests)
    ended = ended or guest.ended
    if cpu >= limits.seconds:
        return Judged("timeout", share, f"used {cpu:.1f} s of CPU time")
    if ended:
        return Judged(ended.verdict, share, ended.detail)
    return Judged("correct" if share == 1 else "wrong", share, detail)


def _programs(tests: CodeTests, source: str, limits: SandboxConfig, bwrap: str, partial: bool) -> Judged:
    raise NotImplementedError
