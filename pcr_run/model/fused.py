"""One pass over a block of logits: a kernel compiled for it on a GPU, the formula as it stands elsewhere."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

log = logging.getLogger(__name__)


def log_softmax(
    logits: Float[Tensor, "block vocabulary"], targets: Int[Tensor, " block"]
) -> tuple[Float[Tensor, " block"], Float[Tensor, " block"], Float[Tensor, "block vocabulary"]]:
    """Log-probs of the targets, entropies in nats, and all probabilities."""
    normaliser = logits.logsumexp(-1)
    probabilities = (logits - normaliser[:, None]).exp_()
    entropy = normaliser - (probabilities * logits).sum(-1)  # no vecdot, which autocast would round to bfloat16
    return logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser, entropy, probabilities


def target_logprobs(
    logits: Float[Tensor, "block vocabulary"], targets: Int[Tensor, " block"]
) -> Float[Tensor, " block"]:
    """The log-probs alone."""
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


Formula = Callable[[Tensor, Tensor], Any]


def on(device: torch.device, formula: Formula) -> Formula:
    """The formula, compiled where that is of use."""
    return compiled(formula) if device.type == "cuda" else formula


@functools.cache
def compiled(formula: Formula) -> Formula:
    """``formula`` compiled at its first call; as it stands where that fails, which the log says."""
    found: list[Formula] = [torch.compile(formula, dynamic=True)]

    def call(*arguments: Tensor) -> Any:
        try:
            return found[0](*arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, no Triton, a driver that does not fit: torch has no common base
            if found[0] is formula:
                raise
            log.info("%s is not compiled (%s)", formula.__name__, type(error).__name__)
            found[0] = formula
            return formula(*arguments)

    return call
