"""The command ``pcr-eval``: compose, check, measure one model; ``-m`` hands several to the launcher ``evaluations``.

Imports nothing heavy, as ``pcr-run``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcr_run import cli
from pcr_run.configuration.check import check
from pcr_run.configuration.check.launch import processes
from pcr_run.errors import ConfigError
from pcr_run.eval import source
from pcr_run.schema import Config


def main() -> int:
    """Entry point of ``pcr-eval``; the exit code is 0, 1 (failed), 2 (bad configuration) or 128 + signal."""
    return cli.start(cli.Program("pcr-eval", "eval", check_evaluation, _show, _evaluate, "with what is not there yet"))


def check_evaluation(cfg: Config) -> None:
    """Raise ``ConfigError`` unless this model can be measured by these benchmarks, and there are any."""
    evaluation, chosen = cfg.evaluation, cfg.task.name
    if chosen != "evaluation":
        raise ConfigError("task", f"{chosen} is not measured here; add +task@evaluation.tasks.{chosen}={chosen}")
    if evaluation.tasks and not evaluation.n:
        raise ConfigError("evaluation.n", "0 samples measure nothing; right: at least 1, or no evaluation.tasks")
    if not (evaluation.tasks or evaluation.text or evaluation.harness.tasks):
        raise ConfigError(
            "evaluation", "nothing to measure; choose evaluation=paper, or add +task@evaluation.tasks.X=X"
        )
    if processes(cfg) > 1:
        raise ConfigError("launch.nproc", f"{processes(cfg)} processes cannot share a measurement; right: 1")
    if cfg.launch.offload:
        raise ConfigError("launch.offload", "a measurement needs the model whole; right: false")
    check(replace(cfg, model=source.find(cfg.model).model))


def _show(cfg: Config, directory: Path) -> None:
    from pcr_run.eval.dry_run import show

    show(cfg, directory)


def _evaluate(cfg: Config, directory: Path) -> dict[str, Any]:
    from pcr_run.eval.evaluate import evaluate

    return evaluate(cfg, directory)


if __name__ == "__main__":
    sys.exit(main())
