"""Whole runs in the test's own process: a new one takes seconds to import what is there already."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from pcr_run import cli


def run(*arguments: str) -> int:
    """What the command ``pcr-run`` does with these arguments; its exit code."""
    with (
        mock.patch.object(sys, "argv", ["pcr-run", *arguments]),
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch.dict("os.environ"),
        torch.random.fork_rng(),
        _put_back(),
    ):
        try:
            return cli.main()
        except SystemExit as end:
            return int(end.code or 0)


@contextmanager
def _put_back() -> Iterator[None]:
    """Signals and logging as they stood; modules of a test's own directory are forgotten."""
    known = set(sys.modules)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    log, raises = logging.getLogger("pcr_run"), logging.raiseExceptions
    terminal, level = log.handlers, log.level
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        log.handlers = terminal
        log.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(tempfile.gettempdir()):
                del sys.modules[name]
