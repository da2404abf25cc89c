"""What is measured: lm-eval where it is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Tasks of lm-eval without lm-eval, twice, or from a directory that is not there."""
    harness = cfg.evaluation.harness
    if harness.tasks and importlib.util.find_spec("lm_eval") is None:
        yield "evaluation.harness.tasks", "lm-eval is not installed; pip install 'pcr-run[lm-eval]', or leave it empty"
    if len(set(harness.tasks)) < len(harness.tasks):
        yield "evaluation.harness.tasks", f"{', '.join(harness.tasks)} names a task twice; once is enough"
    if harness.include_path is not None and not Path(harness.include_path).expanduser().is_dir():
        problem = f"{harness.include_path} is no directory; give one that holds tasks of lm-eval (YAML)"
        yield "evaluation.harness.include_path", problem
