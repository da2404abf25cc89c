"""The learning rate as a function of the optimizer steps done."""

from __future__ import annotations

import math
from collections.abc import Callable

from pcr_run.schema import LearnerConfig

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: max(0.0, 1 - done),
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * min(1.0, done))),
}
"""Factor on the learning rate by the share of the steps done after the warm-up."""


def schedule(cfg: LearnerConfig, updates: int) -> Callable[[int], float]:
    """Factor on the learning rate by optimizer steps done: linear warm-up, then one of ``SCHEDULES``.

    ``updates`` are those planned; skipped ones do not count, so that decay may end a little above 0.
    """
    warm = round(cfg.warmup * updates)

    def factor(update: int) -> float:
        if update < warm:
            return (update + 1) / warm
        return SCHEDULES[cfg.schedule]((update - warm) / max(1, updates - warm))

    return factor
