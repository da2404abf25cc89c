"""How a step's responses divide into minibatches, microbatches and the units of the variance."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.schema import Config


def batch(cfg: Config) -> tuple[int, int]:
    """(prompts, responses) of one optimizer step."""
    prompts = cfg.rollout.prompts // cfg.learner.minibatches
    return prompts, prompts * cfg.rollout.group


def measures(cfg: Config) -> bool:
    """Whether any parameter group gets a row in the gradient table."""
    return cfg.resolver.name != "none" or cfg.measure.modules is not None


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What does not divide, and units that leave nothing to compare."""
    group, learner = cfg.rollout.group, cfg.learner
    if cfg.rollout.prompts % learner.minibatches:
        yield (
            "learner.minibatches",
            f"{learner.minibatches} does not divide rollout.prompts={cfg.rollout.prompts}; "
            f"right: {_listed(_divisors(cfg.rollout.prompts))}",
        )
    prompts, responses = batch(cfg)
    right = sorted({*_divisors(group), *(group * n for n in _divisors(prompts))})
    if learner.microbatch not in right:
        yield (
            "learner.microbatch",
            f"{learner.microbatch} does not cut {prompts} prompts x {group} responses into equal parts of a group or "
            f"of whole groups; right: {_listed(right)}",
        )
    if measures(cfg):
        if cfg.measure.unit == "response" and group < 2:
            yield "measure.unit", "response needs rollout.group of at least 2; right here: query"
        if cfg.measure.unit == "query" and prompts < 2:
            yield "measure.unit", "query needs at least 2 prompts in a minibatch; raise rollout.prompts"
        if cfg.measure.unit == "microbatch" and (learner.microbatch % group or responses < 2 * learner.microbatch):
            yield (
                "measure.unit",
                f"microbatch needs at least 2 microbatches of whole groups; learner.microbatch={learner.microbatch} of "
                f"{responses} responses, groups of {group}",
            )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
