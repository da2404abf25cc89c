"""How much of an update survives rounding: of bfloat16 weights, AdamW at a rate of 1e-6 changes almost none."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pcr_run.distributed.ranks import total
from pcr_run.distributed.shards import local, offset

SAMPLE = 1 << 16
"""Weights that are looked at, evenly spaced over the model."""
FEW = 0.1

log = logging.getLogger(__name__)


class Survival:
    """Looks at a sample of the weights before and after an update. Warns once where few of them change."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.stride = max(1, sum(weight.numel() for weight in self.weights) // SAMPLE)
        self.warned = False
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def before(self) -> None:
        """Keep the sample as it is; of weights without a gradient no change is expected."""
        self._before = [
            (weight, self._sample(weight).clone(), self._sample(weight.grad) != 0)
            for weight in self.weights
            if weight.grad is not None
        ]

    def share(self, rate: float) -> float | None:
        """The share of the sample that changed since ``before``; None where no change was due. ``rate``: the step's."""
        before, self._before = self._before, []
        due = _count(moved.sum() for _, _, moved in before)
        if due == 0 or rate == 0:
            return None
        changed = _count(((self._sample(weight) != old) & moved).sum() for weight, old, moved in before)
        if changed < FEW * due and not self.warned:
            self.warned = True
            log.warning(
                "learner.lr: at %g an update changes %.1f%% of the weights: in %s it is mostly lost to rounding; "
                "use model.dtype=float32 with learner.autocast=true",
                *(rate, 100 * changed / due, str(self.weights[0].dtype).removeprefix("torch.")),
            )
        return changed / due

    def _sample(self, tensor: Tensor) -> Tensor:
        first = -offset(tensor) % self.stride  # the same sample of the whole, however it is cut
        return local(tensor.detach()).flatten()[first :: self.stride]


def _count(counts: Iterable[Tensor]) -> int:
    """Their sum, over the ranks too; one wait for the device, not one a weight."""
    return int(total(torch.tensor(int(sum(counts)))))
