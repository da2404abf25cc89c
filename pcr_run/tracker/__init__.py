"""The metrics of each step in; what a person or Weights & Biases sees out. May import records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pcr_run.schema import Config


class Tracker(Protocol):
    """Shown the metrics of every step."""

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Take the flat metrics of one step, as written to metrics.jsonl."""

    def status(self, text: str) -> None:
        """Say what the run does now, outside of its steps (``evaluating``)."""


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """See ``Tracker``."""
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def status(self, text: str) -> None:
        """See ``Tracker``."""
        for tracker in self.trackers:
            tracker.status(text)


@contextlib.contextmanager
def opened(cfg: Config, directory: Path, start: int = 0) -> Iterator[Trackers]:
    """The trackers of a configuration, finished however the run ends. ``start`` is the number of steps already done."""
    from pcr_run.tracker import progress

    with contextlib.ExitStack() as stack:
        trackers: list[Tracker] = []
        if cfg.tracker.wandb.mode != "disabled":
            from pcr_run.tracker.wandb_tracker import WandbTracker  # takes a second to import

            trackers.append(stack.enter_context(WandbTracker(cfg, directory)))
        trackers.append(stack.enter_context(progress.make(cfg.tracker.progress, cfg.task.name, cfg.steps, start)))
        yield Trackers(trackers)
