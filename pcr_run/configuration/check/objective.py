"""The two losses, and what is measured of the outcome."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.schema import Config, clip_range


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Losses that cannot be computed."""
    learner = cfg.learner
    if cfg.rollout.group < 2 and learner.advantage == "standard":
        yield "rollout.group", "1 response has no group to be compared with (learner.advantage=standard); at least 2"
    low, high = clip_range(learner)
    if low > high and learner.surrogate != "cispo":  # whose lower bound may be none at all
        yield "learner.clip_low", f"{low:g} is above learner.clip_high={high:g}; lower it"
    if learner.dual_clip is not None and learner.surrogate == "cispo":
        yield "learner.dual_clip", "cispo has no ratio in its loss that it could bound; right: null, or surrogate clip"


def doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is allowed and does nothing."""
    learner = cfg.learner
    if learner.reference == "old" and learner.epochs * learner.minibatches == 1:
        yield "learner.reference", "old with one update per batch: the KL term and its gradient are always 0"
    if cfg.rollout.group < 2:
        yield "rollout.group", "with 1 response every advantage is 0: only the KL term acts"
    if cfg.evaluation.temperature == 0 and cfg.evaluation.n > 1:
        yield "evaluation.n", f"greedy decoding gives {cfg.evaluation.n} times the same answer; 1 is enough"
