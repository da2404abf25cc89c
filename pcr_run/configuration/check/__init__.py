"""What a configuration must satisfy, before anything starts: a small file a subject. May import as its room."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator

from pcr_run import reward
from pcr_run.configuration.check import (
    batch,
    caches,
    evaluation,
    extras,
    launch,
    lora,
    objective,
    resolver,
    rollout,
    sources,
    tracker,
    values,
)
from pcr_run.configuration.check.directory import check_directory, writable
from pcr_run.configuration.check.resolver import ANCHORED, check_rule
from pcr_run.configuration.check.values import CHOICES, RANGES, get
from pcr_run.errors import ConfigError
from pcr_run.model import card
from pcr_run.schema import Config

__all__ = ["ANCHORED", "CHOICES", "RANGES", "check", "check_directory", "check_rule", "get", "writable"]

log = logging.getLogger(__name__)

SUBJECTS: tuple[Callable[[Config], Iterator[tuple[str, str]]], ...] = (
    *(values.problems, sources.problems, caches.problems, extras.problems, launch.problems, lora.problems),
    *(batch.problems, rollout.problems, objective.problems, resolver.problems, tracker.problems, evaluation.problems),
)
"""Each gives (key, what is wrong and what would be right). Values come first: the others rely on them."""


def check(cfg: Config) -> None:
    """Raise ``ConfigError`` for the first rule that does not hold; log a warning for what is allowed but in vain.

    Reads the files of models that are here, loads none of them; starts a sandbox where one will be needed.
    """
    for problems in SUBJECTS:
        for key, problem in problems(cfg):
            raise ConfigError(key, problem)
    card.read(cfg.model)
    if cfg.reward.path is not None and (local := card.local_directory(cfg.reward.path, "reward.path")):
        card.read_config(local, "reward.path")
    reward.check(cfg.reward, cfg.sandbox)
    for verifier in {task.verifier for task in cfg.evaluation.tasks.values()}:
        reward.check(dataclasses.replace(cfg.reward, name="verifier", verifier=verifier), cfg.sandbox)
    for key, problem in (*resolver.doubts(cfg), *objective.doubts(cfg), *launch.doubts(cfg)):
        log.warning("%s: %s", key, problem)
