"""The two losses, and what is measured of the outcome."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pcr_run.schema import Config, RolloutConfig, clip_range

_OLD = re.compile(r"old|every:0*1|ema:0*1(\.0*)?")
"""References that are the policy which sampled."""

IMPORTANCE = ("importance", "importance_mode", "importance_cap", "importance_floor")


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Losses that cannot be computed."""
    learner = cfg.learner
    if cfg.rollout.group < 2 and learner.advantage == "standard":
        yield "rollout.group", "1 response has no group to be compared with (learner.advantage=standard); at least 2"
    low, high = clip_range(learner)
    if low > high and learner.surrogate in ("clip", "gspo"):  # cispo's lower bound may be none at all
        yield "learner.clip_low", f"{low:g} is above learner.clip_high={high:g}; lower it"
    if learner.dual_clip is not None and learner.surrogate in ("cispo", "reinforce"):
        problem = f"{learner.surrogate} has no ratio in its loss that it could bound"
        yield "learner.dual_clip", f"{problem}; right: null, or learner.surrogate=clip"
    if learner.surrogate == "reinforce":
        for key, bound in (("clip_low", learner.clip_low), ("clip_high", learner.clip_high)):
            if bound is not None:
                yield f"learner.{key}", "reinforce has no ratio to clip; right: null, or learner.surrogate=clip"
    if learner.kl == "variance":
        if learner.aggregation != "sequence_sum":
            problem = f"{learner.aggregation} is not that of whole responses, which learner.kl=variance compares"
            yield "learner.aggregation", f"{problem}; right: sequence_sum (learner=gvpo sets both)"
        if learner.mask_truncated:
            yield "learner.mask_truncated", "with learner.kl=variance a group must be whole; right: false"
        if cfg.rollout.group < 2:
            yield "rollout.group", "1 response has no variance (learner.kl=variance); at least 2"
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
    yield from _penalty(cfg)
    yield from _sampling(cfg)
    if cfg.rollout.group < 2:
        yield "rollout.group", "with 1 response every advantage is 0: only the KL term acts"
    if cfg.evaluation.temperature == 0 and cfg.evaluation.n > 1:
        yield "evaluation.n", f"greedy decoding gives {cfg.evaluation.n} times the same answer; 1 is enough"


def _penalty(cfg: Config) -> Iterator[tuple[str, str]]:
    """Of the KL term and its reference, and of clipping."""
    learner, once = cfg.learner, cfg.learner.epochs * cfg.learner.minibatches == 1
    if _OLD.fullmatch(learner.reference) and (once or learner.kl_in == "reward"):
        yield "learner.reference", "old with one update per batch: the KL term and its gradient are always 0"
    if learner.reference.startswith("every:") and int(learner.reference[6:]) >= cfg.steps > 0:
        yield "learner.reference", f"{learner.reference} renews nothing in {cfg.steps} steps: it stays the initial one"
    if learner.kl_in == "reward" and learner.beta == 0:
        yield "learner.kl_in", "with learner.beta=0 nothing is taken from the reward"
    if learner.zero_advantage == "skip" and (learner.beta == 0 or learner.kl_in == "reward"):
        yield "learner.zero_advantage", "there is no KL term in the loss that could be skipped"
    if once:
        for key in ("clip_low", "clip_high", "dual_clip"):
            if getattr(learner, key) is not None:
                yield f"learner.{key}", "with one update per batch every ratio is 1: it never acts"


def _sampling(cfg: Config) -> Iterator[tuple[str, str]]:
    """Of keys that only another one makes count."""
    rollout, default = cfg.rollout, RolloutConfig(name=cfg.rollout.name)
    counts = {
        **dict.fromkeys(IMPORTANCE, (rollout.old_logprobs == "engine", "rollout.old_logprobs=engine")),
        "max_rounds": (rollout.dynamic, "rollout.dynamic=true"),
        "gpus": (rollout.name == "vllm" or rollout.lag > 0, "rollout=vllm or rollout.lag=1"),
    }
    for key, (used, needs) in counts.items():
        if not used and getattr(rollout, key) != getattr(default, key):
            yield f"rollout.{key}", f"does nothing without {needs}"
    if rollout.dynamic and cfg.reward.name == "model":
        yield "rollout.dynamic", "scores of a reward model are hardly ever equal: no group will be replaced"
