"""A worker process: reads jobs, one JSON line each, from standard input and answers each with one line.

The kernel ends it when a check of an answer uses too much CPU time, whatever Python is doing at that moment.
Run as ``python -m pcr_run.reward.worker``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import time
from dataclasses import asdict
from typing import Any

from pcr_run.reward.limit import limit
from pcr_run.reward.printable import described

JOBS = 3  # where standard input is moved, out of reach of what the tests read
MEMORY = 2 << 30  # bytes of address space; SymPy and the tests need far less


def check_answer(job: dict[str, Any]) -> dict[str, Any]:
    """One math answer. The timer's signal is left at its default action, which ends this process."""
    try:
        import sympy.core.random

        from pcr_run.reward.math.equality import equal
    except Exception as problem:  # no memory for it, a broken installation
        return {"verdict": "error", "detail": described(problem)}
    sympy.core.random.seed(0)  # the same answer takes the same way every time, whatever was judged before it
    signal.setitimer(signal.ITIMER_PROF, job["seconds"])
    try:
        return {"verdict": equal(job["gold"], job["answer"])}
    except Exception as problem:  # SymPy has no common base for its failures
        # The answer is at fault, or this verifier.
        fault = "refused" if equal(job["gold"], job["gold"]) == "correct" else "error"
        return {"verdict": fault, "detail": described(problem)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def check_gold(job: dict[str, Any]) -> dict[str, Any]:
    """Whether a gold answer states a value."""
    from pcr_run.reward.math.equality import parses

    signal.setitimer(signal.ITIMER_PROF, job["seconds"])
    try:
        return {"parses": parses(job["gold"])}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run_program(job: dict[str, Any]) -> dict[str, Any]:
    """One program with its tests, in a child of this process, so that no item sees what another one left behind."""
    from pcr_run.data import CodeTests
    from pcr_run.reward.sandbox.isolation import Isolation
    from pcr_run.reward.sandbox.judge import judge
    from pcr_run.schema import SandboxConfig

    inbox, outbox = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            limits = SandboxConfig(**job["sandbox"])
            signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds + 2)  # ends this side too: stalled by a reply
            random.seed("tests")  # the same program earns the same in every run
            isolation = Isolation(**job["isolation"])
            judged = judge(CodeTests(**job["tests"]), job["program"], limits, isolation, job["partial"])
            os.write(outbox, json.dumps(asdict(judged)).encode())
        except BaseException as problem:  # the fork must not go on as a second worker
            detail = described(problem)
            os.write(outbox, json.dumps({"verdict": "error", "passed": 0.0, "detail": detail}).encode())
        finally:
            os._exit(0)
    os.close(outbox)
    events = select.poll()
    events.register(inbox, select.POLLIN)
    events.register(JOBS, 0)  # only whether the owner hung up
    if any(fd == JOBS for fd, _ in events.poll()):
        os.killpg(0, signal.SIGKILL)
    with open(inbox, "rb") as pipe:  # noqa: PTH123
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return json.loads(answer)
    if os.WIFSIGNALED(status):  # what the program returned was too much for the tests
        return {"verdict": "stalled", "passed": 0.0, "detail": f"the tests were ended by signal {os.WTERMSIG(status)}"}
    return {"verdict": "error", "passed": 0.0, "detail": "the tests ended without a verdict"}


def main() -> None:
    """Say that this process is ready, then answer jobs until standard input ends."""
    limit(resource.RLIMIT_AS, MEMORY)
    limit(resource.RLIMIT_CORE, 1)  # see isolation.py
    os.dup2(0, JOBS, inheritable=False)
    jobs = os.fdopen(JOBS, "r")
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    answers.write("ready\n")
    answers.flush()
    kinds = {"math": check_answer, "gold": check_gold, "code": run_program}
    for line in jobs:
        job = json.loads(line)
        start = time.monotonic()
        answer = kinds[job.pop("kind")](job)
        answers.write(json.dumps({**answer, "seconds": time.monotonic() - start}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
