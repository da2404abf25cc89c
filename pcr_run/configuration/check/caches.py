"""Directories beside the run's own that it will fill: made models, downloads, tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pcr_run.configuration.check.directory import unwritable
from pcr_run.model import builtin, cache, card
from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """A cache that a run needs and that cannot be written, under the variable that names it."""
    for directory, variable, right in _needed(cfg):
        if problem := unwritable(directory):
            yield variable, f"{problem}; set {right} to a writable directory"


def _needed(cfg: Config) -> Iterator[tuple[Path, str, str]]:
    """(directory, the variable that it comes from, the one to set)."""
    made = builtin.directory(cfg.model.builtin) if cfg.model.path is None else None
    if made is not None and not os.path.isdir(made):  # noqa: PTH112 - false, not an error, where it is out of reach
        yield *cache.root_and_variable(), "PCR_RUN_CACHE"
    hub_id = cfg.model.path or (builtin.SMOLLM2_HUB_ID if made is None else None)
    if hub_id is not None and card.is_absent(hub_id):
        yield *_hugging_face("HF_HUB_CACHE", "hub"), "HF_HOME"
    sources = [cfg.task.data.get("source"), *(task.data.get("source") for task in cfg.evaluation.tasks.values())]
    if "hub" in sources or cfg.evaluation.text.get("source") == "hub":
        yield *_hugging_face("HF_DATASETS_CACHE", "datasets"), "HF_HOME"


def _hugging_face(own: str, part: str) -> tuple[Path, str]:
    """Where the Hugging Face libraries keep a part of what they load."""
    if os.environ.get(own):
        return Path(os.environ[own]).expanduser(), own
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / part, "HF_HOME"
    directory, variable = cache.user()
    return directory / "huggingface" / part, variable
