"""Runs one item's tests here, on the trusted side, against a candidate that lives in a sandbox.

The candidate never sees the tests and never writes a verdict: it is called through ``Guest`` and can only return or
raise plain data. That data may still slow this process down, so it runs under limits of its own (worker.py).
"""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import select
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from pcr_run.data import CodeTests, Verdict
from pcr_run.reward.printable import printable
from pcr_run.reward.sandbox.isolation import Isolation, Process
from pcr_run.reward.sandbox.plain import NotPlainError, TooMuchError, decode, encode
from pcr_run.schema import SandboxConfig

MAX_MESSAGE = 8 << 20
MAX_THREADS = 64
POLL = 0.01  # seconds between two looks at the number of threads

_WORD = re.compile(r"\w+", re.ASCII)


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
    """The candidate as a function. Lists, dicts and sets among the arguments are changed as the candidate does.

    ``expected`` are the builtin exceptions that it may raise here; all others are a CandidateError.
    """

    def __init__(
        self, process: Process, limits: SandboxConfig, expected: Collection[type[Exception]] = frozenset()
    ) -> None:
        self.ended: Ended | None = None
        self._answered = False
        self._process = process
        self._expected = expected
        self._threads = limits.threads
        self._seconds = limits.seconds
        self._deadline = time.monotonic() + limits.wall_seconds

    def load(self, preamble: str, source: str, entry_point: str | None) -> None:
        """Define the candidate; raises Ended when that fails."""
        try:
            self._receive()
        except Ended as ended:
            raise self._end("error", f"the sandbox did not start: {ended.detail}") from None
        self._process.started()
        self._send(encode((entry_point, preamble, source))[0])
        kind, what = self._receive()
        if kind == "unparsed":
            raise self._end("unparsed", printable(what))
        if kind != "defined":
            raise self._end("wrong", f"defining it raised {printable(what)}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the candidate; raises what it raises, CandidateError, or Ended."""
        if self.ended:
            raise self.ended
        try:
            message, originals = encode((args, kwargs))
        except TooMuchError:  # a test hands on what the candidate made
            raise self._end("refused", "the program returned too much") from None
        except NotPlainError as problem:  # the task's fault, unless the test computed it from what it was given
            verdict: Verdict = "refused" if self._answered else "error"
            raise self._end(verdict, f"a test passes a {problem}, which is no plain data") from None
        self._send(message)
        kind, what = self._receive(originals)
        self._answered = True
        if kind == "returned":
            return what
        if kind == "raised":
            raise self._exception(what)
        raise CandidateError(f"returned a {printable(what)}")

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
        except (NotPlainError, ValueError, TypeError, MemoryError) as problem:
            raise self._end("refused", f"the program returned no plain data: {printable(problem)}") from None
        return kind, what

    def _exception(self, what: Any) -> Exception:
        """What was raised in the sandbox: the first of its classes, by name, that is expected, else CandidateError."""
        *names, text = [part for part in what if isinstance(part, str)] if isinstance(what, list) and what else [""]
        for name in names:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and kind in self._expected:
                with contextlib.suppress(TypeError):  # UnicodeError and its kin want more arguments
                    return kind(text)
        return CandidateError(printable(f"{''.join(names[:1])}: {text}"))

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
            if self._process.threads() > MAX_THREADS:
                raise self._end("refused", f"started more than {MAX_THREADS} threads")
            if any(select.select(readable, writable, [], min(wall, cpu + 0.001, POLL if self._threads else wall))):
                return


def named(source: str) -> frozenset[type[Exception]]:
    """The builtin exceptions that a test's text names.

    Python itself reads some exceptions as an end: StopIteration ends map, zip, next and for, IndexError a loop over
    ``__getitem__``, AttributeError is False for hasattr. A candidate could end a test's loop with them before anything
    was compared. So it can raise what the author of the test wrote down, and never what ends an iteration.
    """
    kinds = {getattr(builtins, word, None) for word in set(_WORD.findall(source))}
    ends = (StopIteration, StopAsyncIteration)
    return frozenset(k for k in kinds if isinstance(k, type) and issubclass(k, Exception) and not issubclass(k, ends))


def judge(tests: CodeTests, program: str, limits: SandboxConfig, isolation: Isolation, partial: bool) -> Judged:
    """Run all tests of one item. With ``partial`` the tests after a failed one are run too."""
    run = _judge_program if tests.entry_point is None else _judge_function
    judged = run(tests, program, limits, isolation, partial)
    return replace(judged, detail=printable(judged.detail))


def _judge_function(
    tests: CodeTests, program: str, limits: SandboxConfig, isolation: Isolation, partial: bool
) -> Judged:
    """One process answers the calls of all tests, so that state between calls is real."""
    process = Process(isolation, limits)
    guest = Guest(process, limits, named("\n".join((tests.setup, *tests.tests))))
    passed, detail = 0, ""
    try:
        guest.load(tests.preamble, program, tests.entry_point)
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(tests.setup, namespace)
        namespace[str(tests.entry_point)] = guest
        for number, block in enumerate(tests.tests):
            try:
                exec(block, namespace)
                passed += not guest.ended
            except Exception as problem:
                detail = detail or f"test {number}: {type(problem).__name__}: {printable(problem)}"
                if not partial:
                    break
            if guest.ended:
                break
    except Ended:
        pass
    finally:
        cpu = process.close()
    return _outcome(passed, len(tests.tests), guest.ended, cpu, limits, detail)


def _judge_program(
    tests: CodeTests, program: str, limits: SandboxConfig, isolation: Isolation, partial: bool
) -> Judged:
    """A process a test; standard output is compared line by line without trailing blanks."""
    passed, detail, used = 0, "", 0.0
    ended: Ended | None = None
    for number, (stdin, expected) in enumerate(tests.stdio):
        process = Process(isolation, limits, stdin.encode(), keep_output=True)
        guest = Guest(process, replace(limits, seconds=limits.seconds - used))
        output = None
        try:
            guest.load(tests.preamble, program, None)
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
