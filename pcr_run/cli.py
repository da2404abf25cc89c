"""The command ``pcr-run``: compose, check, run one cell; ``-m`` hands a sweep to the launcher ``cells``.

``pcr-eval`` is another ``Program`` of the same kind.

Imports nothing heavy: help, completion and every bad configuration answer without torch.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pcr_run.configuration import compose
from pcr_run.configuration.check import check, check_directory, check_rule, writable
from pcr_run.distributed import launch
from pcr_run.errors import ConfigError, Interrupted, RunError, disk_full, is_disk_full
from pcr_run.records import result
from pcr_run.schema import Config

log = logging.getLogger("pcr_run")


@dataclass(frozen=True)
class Program:
    """A command: its ``name``, its primary ``config``, and what it does with a typed configuration and a directory.

    ``check`` raises before anything starts; ``show`` prints the dry run; ``run`` does the work; ``goes_on`` says how,
    after an interruption.
    """

    name: str
    config: str
    check: Callable[[Config], None]
    show: Callable[[Config, Path], None]
    run: Callable[[Config, Path], dict[str, Any]]
    goes_on: str


def main() -> int:
    """Entry point of ``pcr-run``; for the exit code see ``start``."""
    return start(Program("pcr-run", "config", check, _show, _train, "from the newest checkpoint"))


def _show(cfg: Config, directory: Path) -> None:
    from pcr_run.configuration.dry_run import show

    show(cfg, directory)


def _train(cfg: Config, directory: Path) -> dict[str, Any]:
    from pcr_run.run.run import run

    outcome = run(cfg, directory)
    if cfg.tracker.report and launch.speaks() and HydraConfig.get().mode == RunMode.RUN:
        from pcr_run.report import build  # takes a second to import

        build.softly(directory)
    return outcome


def start(program: Program) -> int:
    """Do what the command line says; the exit code is 0, 1 (failed), 2 (bad configuration) or 128 + signal."""
    say = partial(_say, program.name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    logging.raiseExceptions = False  # a full disk must not print a traceback for each line of run.log
    terminal = _Terminal()
    terminal.setFormatter(logging.Formatter(f"{program.name}: %(levelname)s: %(message)s"))
    terminal.setLevel(logging.WARNING if launch.speaks() else logging.CRITICAL)  # one rank speaks for all
    log.handlers = [terminal]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as they are; they are shown below, in one line
    _import_from_config_dir(sys.argv[1:])
    compose.register()
    try:
        main = hydra.main(config_path="pkg://pcr_run.conf", config_name=program.config, version_base="1.3")
        main(wraps(job)(partial(job, program)))()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return say(error if isinstance(error, ConfigError) else compose.explain(error), 2)
    except RunError as error:
        return say(error, 1)
    except OSError as error:
        where = "hydra.run.dir (of a sweep: hydra.sweep.dir)"
        return say(f"{where}: cannot write {error.filename} ({error.strerror}); choose another directory", 2)
    except KeyboardInterrupt as error:
        return say("interrupted", 128 + getattr(error, "signal", signal.SIGINT))
    return 0


class _Terminal(logging.StreamHandler):
    """Writes to what stderr is at the moment: a live display takes its place."""

    stream = property(lambda self: sys.stderr, lambda self, value: None)


def job(program: Program, composed: DictConfig) -> Any:
    """One run. Ends the process with its exit code, or raises where a sweep of another launcher wants to know."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    early = MemoryHandler(1000, flushLevel=sys.maxsize)  # what is said before there is a run.log
    log.addHandler(early)
    try:
        cfg = compose.to_config(composed)
        if launch.REPORT not in os.environ:  # who starts ranks has checked the same
            program.check(cfg)
        check_directory(cfg, directory)
        writable(directory)
        if cfg.dry_run:
            program.show(cfg, directory)
            return None
        check_rule(cfg)
        shared = (cfg.launch.nproc > 1 or cfg.launch.offload) and not launch.is_rank()  # one rank has shards too
        if shared and result.read(directory).get("status") != "complete":
            with _alone_in(directory):
                return _share(cfg, directory)
        if not launch.speaks():
            return _run(program, cfg, directory)
        with contextlib.nullcontext() if launch.started_here() else _alone_in(directory), _logged(directory, early):
            return _run(program, cfg, directory)
    except ConfigError as error:
        _leave(program, error, 2)
    except RunError as error:
        _leave(program, error, 1)
    except Interrupted as error:
        message = f"interrupted; the same command goes on {program.goes_on}"
        sys.exit(_say(program.name, message, 128 + error.signal))
    finally:
        log.removeHandler(early)
        with contextlib.suppress(OSError):  # Hydra made it; keep it only with something inside
            directory.rmdir()


def _share(cfg: Config, directory: Path) -> dict[str, Any]:
    """The run in several processes; what ended it early is in ``result.json``."""
    hydra = HydraConfig.get()
    own = {"hydra.mode": "RUN", "hydra.run.dir": str(directory.absolute())}
    if hydra.mode == RunMode.MULTIRUN:
        own["tracker.report"] = "false"  # the sweep has one
    command = compose.again(hydra, "pcr_run", str(hydra.job.config_name), hydra.overrides.task, own)
    failure = launch.run_ranks(cfg.launch.nproc, command)
    if failure is None:
        return result.read(directory)
    if failure.code < 0:
        reason = f"rank {failure.rank} was killed by {signal.Signals(-failure.code).name}, the others were ended"
        result.mark(directory, cfg, "failed", reason)
        raise RunError(f"{reason}; the same command goes on from the newest checkpoint")
    result.mark(directory, cfg, "failed", failure.text)
    if failure.code == 2:
        raise ConfigError(*failure.text.partition(": ")[::2])
    raise RunError(failure.text or f"rank {failure.rank} ended with exit code {failure.code}")


def _run(program: Program, cfg: Config, directory: Path) -> dict[str, Any]:
    """The run itself; what ends it early is in ``run.log`` with its traceback, in ``result.json`` with its reason."""
    try:
        if launch.speaks():
            result.save_config(directory, cfg)
        return program.run(cfg, directory)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal", signal.SIGINT)
        _mark(directory, cfg, "interrupted", f"signal {number}")
        raise Interrupted(number) from error
    except Exception as error:
        log.debug("traceback", exc_info=True)
        reason = _reason(error, directory)
        _mark(directory, cfg, "failed", reason)
        if isinstance(error, ConfigError | RunError):
            raise
        raise RunError(reason) from error


def _mark(directory: Path, cfg: Config, status: str, reason: str) -> None:
    if launch.speaks():
        result.mark(directory, cfg, status, reason)


def _reason(error: Exception, directory: Path) -> str:
    """What ended a run, in one line."""
    if isinstance(error, ConfigError | RunError):
        return str(error)
    if is_disk_full(error):
        return str(disk_full(Path(getattr(error, "filename", None) or directory)))
    return f"{type(error).__name__}: {error} (traceback in {directory / 'run.log'})"


def _leave(program: Program, error: ConfigError | RunError, code: int) -> NoReturn:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise error
    sys.exit(_say(program.name, error, code))


def _say(name: str, message: object, code: int) -> int:
    """Show why the command ends, in six lines at most; returns its exit code."""
    lines = [line for line in str(message).splitlines() if line.strip()]
    text = "\n".join(lines[:6])
    text = text if len(text) <= 600 and len(lines) <= 6 else f"{text[:600]} ..."
    if launch.REPORT in os.environ:
        launch.report(text)
    else:
        print(f"{name}: {'error: ' if code < 128 else ''}{text}", file=sys.stderr)
    return code


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise Interrupted(number)


def _import_from_config_dir(arguments: list[str]) -> None:
    """A user's directory of YAML groups may hold the Python files that they name."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    directory = parser.parse_known_args(arguments)[0].config_dir
    if directory is not None:
        sys.path.insert(0, str(Path(directory).resolve()))


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Refuse a directory in which another process is running. The lock dies with its process."""
    with (directory / ".lock").open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by worker processes, unlike flock
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError("hydra.run.dir", f"another process is running in {directory}") from error
        yield


@contextlib.contextmanager
def _logged(directory: Path, early: MemoryHandler) -> Iterator[None]:
    """Everything that is logged also goes to ``run.log``, where it is appended; first what ``early`` has kept."""
    handler = logging.FileHandler(directory / "run.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root, level = logging.getLogger(), log.level
    early.setTarget(handler)
    early.flush()
    log.removeHandler(early)
    root.addHandler(handler)
    log.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        log.setLevel(level)
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # on a full disk the rest of the log is lost
            handler.close()


if __name__ == "__main__":
    sys.exit(main())
