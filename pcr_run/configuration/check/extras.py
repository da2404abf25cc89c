"""Packages that a choice needs beside those that are always there."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """A choice whose package is not installed."""
    needed = [
        ("learner.optimizer", cfg.learner.optimizer == "adamw8bit", "torchao", "torchao"),
        ("learner.lora.r", cfg.learner.lora.r is not None, "peft", "lora"),
    ]
    for key, chosen, package, extra in needed:
        if chosen and importlib.util.find_spec(package) is None:
            yield key, f"{package} is not installed; pip install 'pcr-run[{extra}]'"
