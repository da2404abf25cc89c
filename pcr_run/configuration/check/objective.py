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
    if learner.kl_in == "reward":
        if cfg.resolver.name != "none":
            needs = f"reward leaves no stability gradient, which resolver={cfg.resolver.name} needs"
            yield "learner.kl_in", f"{needs}; right: loss, or resolver=none"
        if learner.kl not in ("k1", "k2", "k3"):
            yield "learner.kl", f"{learner.kl} cannot be a reward (learner.kl_in=reward); right: k1, k2 or k3"
    if learner.reference.startswith("ema:") and cfg.model.dtype == "bfloat16":
        rounding = "an average of bfloat16 weights is lost to rounding"
        yield "learner.reference", f"{rounding}; right: model.dtype=float32 learner.autocast=true"
    if cfg.rollout.importance_floor > cfg.rollout.importance_cap:
        floor, cap = cfg.rollout.importance_floor, cfg.rollout.importance_cap
        yield "rollout.importance_floor", f"{floor:g} is above rollout.importance_cap={cap:g}; lower it"
    if cfg.reward.overlong > cfg.rollout.max_new_tokens:
        longest = cfg.rollout.max_new_tokens
        yield "reward.overlong", f"{cfg.reward.overlong} is above rollout.max_new_tokens={longest}; lower it"
    if cfg.rollout.dynamic and cfg.rollout.group < 2:
        yield "rollout.dynamic", "a group of 1 never has a signal, so nothing could replace it; right: rollout.group=2"


def doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is allowed and does nothing."""
    learner = cfg.learner
    if learner.reference == "old" and (learner.epochs * learner.minibatches == 1 or learner.kl_in == "reward"):
        yield "learner.reference", "old with one update per batch: the KL term and its gradient are always 0"
    if learner.kl_in == "reward" and learner.beta == 0:
        yield "learner.kl_in", "with learner.beta=0 nothing is taken from the reward"
    if cfg.rollout.group < 2:
        yield "rollout.group", "with 1 response every advantage is 0: only the KL term acts"
    if cfg.evaluation.temperature == 0 and cfg.evaluation.n > 1:
        yield "evaluation.n", f"greedy decoding gives {cfg.evaluation.n} times the same answer; 1 is enough"
