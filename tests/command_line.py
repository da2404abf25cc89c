"""The command line in the test's process and in one of its own, with a fake run in the place of training."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_run
import pytest


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory; processes started from it find the fake run."""
    site, directory = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    (site / "sitecustomize.py").write_text(Path(fake_run.__file__).read_text())
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def command(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable]:
    """``command("steps=5", pcr="failed")``: arguments, and what fake runs of which resolver do."""
    from pcr_run import cli
    from pcr_run.report import build

    monkeypatch.setattr(build, "softly", lambda *_: None)  # takes seconds; tests/test_report_made.py has it
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminal = logging.getLogger("pcr_run").handlers
    monkeypatch.setitem(sys.modules, "pcr_run.run.run", None)  # to be put back
    fake_run.install()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(logging, "raiseExceptions", True)  # to be put back

    def call(*arguments: str, **fakes: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pcr-run", *arguments])
        monkeypatch.setenv("FAKE_RUN", json.dumps(fakes))
        capfd.readouterr()
        try:
            code = cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Ended(code, *capfd.readouterr())

    yield call
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{work}/"):
            del sys.modules[name]  # a user's file: another test may have one of that name
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("pcr_run").handlers = terminal


@pytest.fixture
def shell(work: Path) -> Callable[..., subprocess.Popen[str]]:
    """``shell("steps=5", pcr="slow")`` starts the same as a process of its own."""

    def start(*arguments: str, program: tuple[str, ...] = ("-m", "pcr_run.cli"), **fakes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", *program, *arguments],
            env={**os.environ, "FAKE_RUN": json.dumps(fakes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def wait_for() -> Callable[[Callable[[], object]], None]:
    """Wait until something is so."""

    def wait(condition: Callable[[], object], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not happen"
            time.sleep(0.02)

    return wait
