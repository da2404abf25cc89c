"""Signals must not land in the middle of an optimizer step or a file, and ranks must end at the same step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch

from pcr_run.distributed.ranks import largest, together
from pcr_run.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends, then deliver them to the handlers that stood before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread only
        return
    pending: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        pending.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if pending:
            signal.raise_signal(pending[0])


class _Asked:
    """The signal that this rank got, 0 for none."""

    number = 0


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Inside, where ranks share the run, signals are only noted, for ``agree``."""
    if not together():
        yield
        return

    def note(number: int, _frame: FrameType | None) -> None:
        _Asked.number = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree() -> None:
    """``Interrupted`` on every rank if any of them got a signal."""
    if together() and (number := int(largest(torch.tensor(_Asked.number)))):
        raise Interrupted(number)
