"""Hydra launcher ``cells``: the default of ``pcr-run -m``. Every cell of a sweep is a fresh process.

All cells are checked before the first starts; complete ones are skipped, so the same command continues a sweep; a
failed one is reported and the others go on. Hydra imports this module at each start: what is heavy is imported where it
is used. It does so outside of sys.modules, where dataclasses cannot resolve postponed annotations: there are none here.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from pcr_run.configuration.compose import again, quoted
from pcr_run.errors import ConfigError, Interrupted
from pcr_run.records import result
from pcr_run.schema import Config


@dataclass
class CellsConf:
    """Options of the launcher: ``hydra.launcher.parallel=2 hydra.launcher.gpus=[0,1]``."""

    _target_: str = "hydra_plugins.pcr_cells.CellsLauncher"
    parallel: int | None = None  # cells at a time; null = one for each set of GPUs in the list, else 1
    gpus: list[Any] = field(default_factory=list)  # launch.nproc a cell, by CUDA_VISIBLE_DEVICES; empty = left as is


@dataclass
class CellsSweeperConf(BasicSweeperConf):
    """Hydra's own sweeper, without composing each cell once more before the launcher does."""

    _target_: str = "hydra_plugins.pcr_cells.CellsSweeper"


PLAIN = "config"
"""The primary configuration of a run that is nobody's experiment."""

ConfigStore.instance().store(group="hydra/launcher", name="cells", node=CellsConf, provider="pcr_run")
ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=CellsSweeperConf, provider="pcr_run")


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep: what it overrides, the configuration this gives, its directory."""

    overrides: tuple[str, ...]
    cfg: Config
    directory: Path
    same: list[tuple[str, ...]] = field(default_factory=list)  # every combination that comes to this configuration


class CellsLauncher(Launcher):
    """Runs the cells of a sweep, then writes and prints its summary and makes its report."""

    module = "pcr_run.cli"  # the command that each cell is

    def __init__(self, parallel: int | None, gpus: Sequence[Any]) -> None:
        if parallel is not None and parallel < 1:
            raise ConfigError("hydra.launcher.parallel", f"{parallel} is out of range; right is a number of at least 1")
        self.gpus = [str(gpu) for gpu in gpus]
        self.parallel = parallel
        self.lines: dict[str, list[Any]] = {}  # of experiments: their combinations

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra with the configuration of the sweep as a whole."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells; ends the process with exit code 1 or 2 when some failed."""
        self.sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        cells = self._checked(job_overrides)
        if self.config.experiments:
            from pcr_run.report import experiment

            experiment.check_declared(self.config.experiments, [cell.cfg for cell in cells])
        if cells[0].cfg.dry_run:
            self._show([(cell.cfg, cell.directory) for cell in cells])
            return [_returned(cell, None) for cell in cells]
        self._declare(cells)
        codes, dealt = {}, self._slots(max(cell.cfg.launch.nproc for cell in cells))
        try:
            for cell, code in self._run(cells, dealt):
                codes[cell.directory] = code
        finally:
            self._conclude(cells)
        self._report(cells)
        if any(codes.values()):
            sys.exit(2 if set(codes.values()) == {2} else 1)
        return [_returned(cell, result.read(cell.directory)) for cell in cells]

    def _declare(self, cells: list[Cell]) -> None:
        """Write what the report has to know about the experiments of this sweep, before the first run begins."""
        from pcr_run.configuration import experiments

        if self.config.experiments:
            by_overrides = {overrides: cell.directory for cell in cells for overrides in cell.same}
            directories = {name: [by_overrides[line].name for line in lines] for name, lines in self.lines.items()}
            names = {name: list(dict.fromkeys(each)) for name, each in directories.items()}
            begun = any((cell.directory / "config.yaml").exists() for cell in cells)
            experiments.write(self.sweep, self.config.experiments, names, self.config.scale, begun)

    def _check(self, cfg: Config) -> None:
        from pcr_run.configuration.check import check

        check(cfg)

    def _done(self, cell: Cell) -> bool:
        return result.read(cell.directory).get("status") == "complete"

    def _show(self, cells: Sequence[tuple[Config, Path]]) -> None:
        from pcr_run.configuration import costs, dry_run

        dry_run.show(*cells[0], asks=False)
        dry_run.matrix(cells)
        at_once = len(self._slots(max(cfg.launch.nproc for cfg, _ in cells)))
        dry_run.table("cost", costs.costs([cfg for cfg, _ in cells], at_once))

    def _conclude(self, cells: Sequence[Cell]) -> None:
        from pcr_run.report import summary
        from pcr_run.report.cells import load

        self.read = load(self.sweep)
        summary.show(self.sweep, self.read)

    def _report(self, cells: Sequence[Cell]) -> None:
        if cells[0].cfg.tracker.report:
            from pcr_run.report import build

            build.softly(self.sweep, self.read)

    def _checked(self, job_overrides: Sequence[Sequence[str]]) -> list[Cell]:
        """The cells, each of a different configuration; raises ``ConfigError`` for the first that is not right."""
        from pcr_run.configuration.check import check_directory, check_rule, writable
        from pcr_run.configuration.compose import to_config

        cells: dict[Path, Cell] = {}
        for overrides in job_overrides:
            composed = self._composed(overrides)
            try:
                cfg = to_config(composed)
                self._check(cfg)
                directory = self.sweep / str(composed.hydra.sweep.subdir)
                check_directory(cfg, directory)
                if not cfg.dry_run:
                    check_rule(cfg)
            except ConfigError as error:
                cell = " ".join(filter_overrides(overrides))
                raise ConfigError(error.key, f"{error.problem} (in the cell {cell}; no cell was started)") from error
            cell = cells.setdefault(directory, Cell(tuple(overrides), cfg, directory))
            cell.same.append(tuple(overrides))
        writable(self.sweep, "hydra.sweep.dir")
        return list(cells.values())

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a cell as its own process composes it: that of an experiment is a plain run."""
        loader, hydra = self.hydra_context.config_loader, self.config.hydra
        if not self.config.experiments:
            return loader.load_sweep_config(self.config, list(overrides))
        subdir = OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"]  # not settled: each cell's own
        named = f"hydra.sweep.subdir={quoted(subdir)}"
        return loader.load_configuration(PLAIN, [*hydra.overrides.hydra, named, *overrides], RunMode.RUN)

    def _run(self, cells: list[Cell], dealt: list[str | None]) -> Iterator[tuple[Cell, int]]:
        """Run what is not complete, one on each of the sets of GPUs ``dealt``; yields (cell, exit code) as they end."""
        todo = [cell for cell in cells if not self._done(cell)]
        print(f"sweep of {len(cells)} cells, {len(cells) - len(todo)} already complete: {self.sweep}", flush=True)
        parallel, slots = len(dealt), deque(dealt)
        waiting, running = deque(todo), dict[subprocess.Popen[bytes], tuple[Cell, str | None, float]]()
        try:
            while waiting or running:
                while waiting and slots:
                    cell, gpu = waiting.popleft(), slots.popleft()
                    print(f"[{cells.index(cell) + 1}/{len(cells)}] {cell.directory.name}: started", flush=True)
                    running[self._start(cell, gpu, parallel)] = cell, gpu, time.monotonic()
                for process in [process for process in running if process.poll() is not None]:
                    cell, gpu, began = running.pop(process)
                    slots.append(gpu)
                    how = f"{_outcome(cell, process.returncode)}, {time.monotonic() - began:.0f} s"
                    print(f"[{cells.index(cell) + 1}/{len(cells)}] {cell.directory.name}: {how}", flush=True)
                    yield cell, process.returncode
                time.sleep(0.05)
        except KeyboardInterrupt as interrupt:
            _stop(list(running), getattr(interrupt, "signal", signal.SIGINT))
            raise

    def _slots(self, processes: int) -> list[str | None]:
        """What each cell that runs at a time gets: a set of as many GPUs as it has processes, or None."""
        if not self.gpus:
            return [None] * (self.parallel or 1)
        sets = [",".join(self.gpus[i : i + processes]) for i in range(0, len(self.gpus) - processes + 1, processes)]
        if not sets:
            problem = f"{len(self.gpus)} are not enough for launch.nproc={processes}"
            raise ConfigError("hydra.launcher.gpus", f"{problem}; right: at least {processes}, or an empty list")
        return [sets[i % len(sets)] for i in range(self.parallel or len(sets))]

    def _start(self, cell: Cell, gpu: str | None, parallel: int) -> subprocess.Popen[bytes]:
        """A process of its own group: Ctrl-C reaches it through us, once. Several at a time write ``console.log``."""
        hydra = self.config.hydra
        # An experiment is a list of plain runs: each of its cells can be typed without it.
        name = PLAIN if self.config.experiments else hydra.job.config_name
        own = {"hydra.mode": "RUN", "hydra.run.dir": str(cell.directory), "tracker.report": "false"}
        if cell.cfg.tracker.wandb.group is None:
            own["tracker.wandb.group"] = self.sweep.name
        command = again(hydra, self.module, name, cell.overrides, own)
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        elif parallel > 1:
            threads = len(os.sched_getaffinity(0)) // (parallel * cell.cfg.launch.nproc)
            environment.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
        if parallel == 1:
            return subprocess.Popen(command, env=environment, process_group=0)
        cell.directory.mkdir(parents=True, exist_ok=True)
        with (cell.directory / "console.log").open("ab") as console:
            return subprocess.Popen(command, env=environment, process_group=0, stdout=console, stderr=console)


class CellsSweeper(BasicSweeper):
    """The product of all swept overrides; of experiments, the union of the products of their grids."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Settle the sweep's directory: other launchers compose its name once more in every cell,
        where it would be that of the cell's own overrides."""
        directory = f"hydra.sweep.dir={quoted(str(config.hydra.sweep.dir))}"
        with open_dict(config):
            config.hydra.overrides.hydra.append(directory)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all cells; with another launcher than ``cells``, which writes its own, write and print the summary."""
        assert self.config is not None
        if self.config.experiments:
            return self._experiments(arguments)
        try:
            return super().sweep(arguments)
        finally:
            directory = Path(str(self.config.hydra.sweep.dir)).absolute()
            runs = self.config.hydra.job.config_name != "eval"  # of evaluations there is no summary
            if runs and not isinstance(self.launcher, CellsLauncher) and any(directory.glob("*/config.yaml")):
                from pcr_run.report import summary

                summary.show(directory)

    def _experiments(self, arguments: list[str]) -> Any:
        """Run the cells of all experiments; what is given on the command line wins over their grids."""
        from pcr_run.configuration.experiments import check_plain, command_lines

        if not isinstance(self.launcher, CellsLauncher):
            raise ConfigError("hydra/launcher", "experiments need the launcher cells, which shares runs among them")
        loader, hydra, parser = self.hydra_context.config_loader, self.config.hydra, OverridesParser.create()
        chosen = [each for each in arguments if parser.parse_override(each).key_or_group.startswith("experiment")]
        arguments = [each for each in arguments if each not in chosen]  # what the runs themselves are given
        name, more = hydra.job.config_name, list(hydra.overrides.hydra)
        own = loader.load_configuration(name, [*more, *chosen], RunMode.RUN)
        check_plain(own, loader.load_configuration(PLAIN, more, RunMode.RUN), name)

        def expand(line: list[str]) -> Sequence[Sequence[str]]:
            return self.split_arguments(parser.parse_overrides([*line, *arguments]), None)[0]

        self.launcher.lines = command_lines(self.config, expand)
        every = dict.fromkeys(each for lines in self.launcher.lines.values() for each in lines)
        return [self.launcher.launch(sorted(every, key=_seed), initial_job_idx=0)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher ``cells``, which checks more than that a cell composes."""
        if not isinstance(self.launcher, CellsLauncher):
            super().validate_batch_is_legal(batch)


def _seed(overrides: Sequence[str]) -> int:
    """Runs of one seed come together, so that every arm has as many seeds wherever a sweep is stopped."""
    return next((int(each.partition("=")[2]) for each in overrides if each.startswith("seed=")), 0)


def _outcome(cell: Cell, code: int) -> str:
    """How a cell ended, for its status line; a process that could not say why itself gets a result that does."""
    if code == 0:
        return "complete"
    if code < 0:
        result.mark(cell.directory, cell.cfg, "failed", f"killed by {signal.Signals(-code).name}")
    found = result.read(cell.directory)
    return f"{found.get('status', 'failed')}: {found.get('reason', f'exit code {code}')}"


def _stop(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    """Pass a signal on and wait; further signals are passed on as well."""
    while any(process.poll() is None for process in processes):
        try:
            for process in processes:
                process.send_signal(number)
            for process in processes:
                process.wait()
        except Interrupted as again:
            number = again.signal


def _returned(cell: Cell, value: Any) -> JobReturn:
    returned = JobReturn(overrides=cell.overrides, status=JobStatus.COMPLETED)
    returned.return_value = value
    return returned
