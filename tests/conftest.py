"""The command line inside the test's process: as a user types it, without the start of an interpreter."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_run
import pytest

from pcr_run import cli


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Callable]:
    """``command("steps=5")`` in an empty directory, with a fake run in the place of training."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminal = logging.getLogger("pcr_run").handlers
    monkeypatch.setitem(sys.modules, "pcr_run.run", None)
    fake_run.install()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pcr-run", *arguments])
        code = 0
        with contextlib.ExitStack() as stack:
            stack.callback(capsys.readouterr)
            try:
                code = cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            out, err = capsys.readouterr()
        return Ended(code, out, err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("pcr_run").handlers = terminal
