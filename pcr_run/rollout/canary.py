"""After every sync: the log-probs of a short prompt from the engine and from the learner must agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pcr_run.distributed.ranks import everyones, together
from pcr_run.errors import RunError
from pcr_run.model.policy import Policy, logprobs

TOKENS = 32
"""Length of the prompt: enough to pass through every layer, short enough to cost a small part of a step."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.05}
"""Largest difference of a log-prob that is rounding, by the engine's dtype, nats."""


def expected(policy: Policy, ids: Sequence[int], device: torch.device) -> list[float]:
    """The learner's log-probs of ``ids`` [T] from the second one on [T - 1]."""
    row = torch.tensor([list(ids)], device=device)
    mask = torch.ones_like(row, dtype=torch.bool)
    mask[:, 0] = False
    return logprobs(policy, row, mask, temperature=1.0).tolist()


def agreed(engine: Sequence[float], learner: Sequence[float], tolerance: float, step: int) -> float:
    """``compare`` of every rank's engine: the largest difference, or the same RunError on all ranks."""
    try:
        mine, problem = compare(engine, learner, tolerance, step), None
    except RunError as error:
        mine, problem = 0.0, str(error)
    found = everyones((mine, problem))
    for number, (_, problem) in enumerate(found):
        if problem is not None:
            raise RunError(f"rank {number}: {problem}" if together() else problem)
    return max(difference for difference, _ in found)


def compare(engine: Sequence[float], learner: Sequence[float], tolerance: float, step: int) -> float:
    """Largest difference, nats; RunError where it is more than rounding."""
    differences = [abs(theirs - ours) for theirs, ours in zip(engine, learner, strict=True)]
    worst = max(range(len(differences)), key=differences.__getitem__)
    if not differences[worst] <= tolerance:  # so that nan does not pass
        over = sum(not difference <= tolerance for difference in differences)
        raise RunError(
            f"before step {step} the engine's weights are not the learner's: log-probs of a prompt differ at {over} of "
            f"{len(differences)} tokens, most at token {worst + 1} (engine {engine[worst]:.6f}, learner "
            f"{learner[worst]:.6f}), and rollout.canary allows {tolerance:g}"
        )
    return differences[worst]
