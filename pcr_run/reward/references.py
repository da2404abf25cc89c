"""Gold answers and tests before anything is trained: whatever cannot be judged is named, and refused or counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pcr_run.data import CodeTests, Item, Task
from pcr_run.errors import ConfigError
from pcr_run.reward.verify import is_simple
from pcr_run.reward.workers import Pool

SECONDS = 5.0  # of CPU time for one gold answer
SHOWN = 3  # items whose problem a message tells in full; the others are named

log = logging.getLogger(__name__)


def ungradable(items: Sequence[Item]) -> dict[str, str]:
    """Why an item cannot be judged, by its id: a gold answer that states no value, tests that cannot run.

    Plain numbers cost microseconds; other answers go through worker processes.
    """
    found: dict[str, str] = {}
    hard = []
    for item in items:
        if isinstance(item.reference, CodeTests):
            if problem := _bad_tests(item.reference):
                found[item.id] = problem
        elif not is_simple(item.reference):
            hard.append(item)
    pool = Pool(os.cpu_count() or 1)
    jobs = [{"kind": "gold", "gold": item.reference, "seconds": SECONDS} for item in hard]
    try:
        for item, reply in zip(hard, pool.map(jobs, 60.0), strict=True):
            if reply is None:
                found[item.id] = f"the gold answer {item.reference!r} takes more than {SECONDS:g} s to read"
            elif not reply["parses"]:
                found[item.id] = f"the gold answer {item.reference!r} states no value"
    finally:
        pool.close()
    return {item.id: found[item.id] for item in items if item.id in found}


def check_references(items: Sequence[Item], key: str = "task.data") -> None:
    """Raise ConfigError that names every item that cannot be judged: it would be scored 0 for ever."""
    if found := ungradable(items):
        raise ConfigError(key, f"{_told(found, len(items))}. Correct them, or set {key}.ungradable to drop or wrong")


def gradable(task: Task, key: str = "task.data") -> Task:
    """The task with its rule ``ungradable`` applied to items that cannot be judged; they are named in the log.

    ``refuse``: ConfigError; ``drop``: they are left out; ``wrong``: they stay, every answer to them is wrong. Held-out
    ones stand in ``Task.unjudged``.
    """
    if task.ungradable == "refuse":
        check_references([*task.train, *task.test], key)
        return task
    found = ungradable([*task.train, *task.test])
    if not found:
        return task
    log.warning("%s: %s; counted as %s", key, _told(found, len(task.train) + len(task.test)), task.ungradable)
    held_out = {item.id: found[item.id] for item in task.test if item.id in found}
    train, test = (_apply(task.ungradable, items, found) for items in (task.train, task.test))
    if not test or (task.train and not train):
        raise ConfigError(key, f"{_told(found, len(found))}, and no other is left")
    return replace(task, train=train, test=test, unjudged=held_out)


def _apply(rule: str, items: Sequence[Item], found: Mapping[str, str]) -> list[Item]:
    if rule == "drop":
        return [item for item in items if item.id not in found]
    return [replace(item, unjudged=found.get(item.id, "")) for item in items]


def _told(found: Mapping[str, str], total: int) -> str:
    told = "; ".join(f"item {name}: {problem}" for name, problem in list(found.items())[:SHOWN])
    others = list(found)[SHOWN:]
    return f"{len(found)} of {total} items cannot be judged: {told}" + (f"; also {', '.join(others)}" if others else "")


def _bad_tests(tests: CodeTests) -> str | None:
    """What is wrong with the tests of a program."""
    if tests.entry_point is None:
        return None if tests.stdio else "a program without (input, output) pairs"
    if not tests.entry_point.isidentifier():
        return f"the entry point {tests.entry_point!r} is no name of a function"
    if not tests.tests:
        return "a function without tests"
    for source in (tests.setup, *tests.tests):
        try:
            compile(source, "<tests>", "exec")
        except (SyntaxError, ValueError) as problem:
            return f"a test that does not compile: {problem}"
    return None
