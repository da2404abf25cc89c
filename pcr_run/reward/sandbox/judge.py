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
from dataclasses import dataclass, replace
from typing import Any

from pcr_run.data import CodeTests, Verdict
from pcr_run.reward.sandbox.isolation import Isolation, Process
from pcr_run.reward.sandbox.plain import NotPlainError, TooMuchError, decode, encode
from pcr_run.schema import SandboxConfig

MAX_MESSAGE = 8 << 20


@dataclass(frozen=True)
class Judged:
    """Outcome of one item: the verdict, the share of its tests that passed, and what went wrong."""

    verdict: Verdict
    passed: float = 0.0
    detail: str = ""


class Ended(BaseException):
    """The candidate's process cannot go on. No Exception: a test's own ``except Exception`` lets it through."""

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
        except Ended:
            raise self._end("error", "the sandbox did not start") from None
        self._process.started()
        self._send(encode((entry_point, source))[0])
        kind, what = self._receive()
        if kind == "unparsed":
            raise self._end("unparsed", str(what)[:200])
        if kind != "defined":
            raise self._end("wrong", f"defining it raised {what}"[:200])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the candidate; raises what it raises, CandidateError, or Ended."""
        if self.ended:
            raise self.ended
        try:
            message, originals = encode((args, kwargs))
        except TooMuchError:  # a test hands on what the candidate made
            raise self._end("refused", "the program returned too much") from None
        except NotPlainError as problem:
            raise self._end("error", f"a test passes a {problem}, which is no plain data") from None
        self._send(message)
        kind, what = self._receive(originals)
        if kind == "returned":
            return what
        if kind == "raised":
            raise _exception(what)
        raise CandidateError(f"returned a {what}")

    def output(self, limit: int) -> bytes:
        """Standard output, once the program has ended."""
        data = bytearray()
        while True:
            self._wait([self._process.output], [])
            part = os.read(self._process.output, 1 << 16)
            if not part:
                break
            data += part
            if len(data) > limit:
                raise self._end("wrong", "the program printed too much")
        self._wait([self._process.handle], [])
        return bytes(data)

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


def judge(tests: CodeTests, program: str, limits: SandboxConfig, isolation: Isolation, partial: bool) -> Judged:
    """Run all tests of one item. With ``partial`` the tests after a failed one are run too."""
    source = f"{tests.preamble}\n{program}" if tests.preamble else program
    if tests.entry_point is None:
        return _judge_program(tests, source, limits, isolation, partial)
    return _judge_function(tests, source, limits, isolation, partial)


def _judge_function(
    tests: CodeTests, source: str, limits: SandboxConfig, isolation: Isolation, partial: bool
) -> Judged:
    """One process answers the calls of all tests, so that state between calls is real."""
    process = Process(isolation, limits)
    guest = Guest(process, limits)
    passed, detail = 0, ""
    try:
        guest.load(source, tests.entry_point)
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(tests.setup, namespace)
        namespace[str(tests.entry_point)] = guest
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
    except Ended:
        pass
    finally:
        cpu = process.close()
    return _outcome(passed, len(tests.tests), guest.ended, cpu, limits, detail)


def _judge_program(tests: CodeTests, source: str, limits: SandboxConfig, isolation: Isolation, partial: bool) -> Judged:
    """A process a test; standard output is compared line by line without trailing blanks."""
    passed, detail, used = 0, "", 0.0
    ended: Ended | None = None
    for number, (stdin, expected) in enumerate(tests.stdio):
        process = Process(isolation, limits, stdin.encode(), keep_output=True)
        guest = Guest(process, replace(limits, seconds=limits.seconds - used))
        output = None
        try:
            guest.load(source, None)
            output = guest.output(len(expected.encode()) + limits.output_kb * 1024)
        except Ended:
            ended = guest.ended
        finally:
            used += process.close()
        if output is not None and process.exit_code == 0 and _lines(output) == _lines(expected.encode()):
            passed += 1
            continue
        detail = detail or f"test {number}: " + ("another output" if process.exit_code == 0 else "the program failed")
        if ended or not partial or used >= limits.seconds:
            break
    return _outcome(passed, len(tests.stdio), ended, used, limits, detail)


def _lines(output: bytes) -> list[bytes]:
    return [line.rstrip() for line in output.rstrip().split(b"\n")]


def _outcome(passed: int, total: int, ended: Ended | None, cpu: float, limits: SandboxConfig, detail: str) -> Judged:
    share = passed / total
    if cpu >= limits.seconds:
        return Judged("timeout", share, f"used {limits.seconds} s of CPU time")
    if ended:
        return Judged(ended.verdict, share, ended.detail)
    return Judged("correct" if passed == total else "wrong", share, detail)
