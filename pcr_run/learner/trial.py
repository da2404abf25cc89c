"""Both gradients of a few tokens, found as an update finds them: whether what is faster gives the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from pcr_run.gradients import Cotangents, TwoGradients
from pcr_run.gradients.cut import Context
from pcr_run.model.packing import Tokens
from pcr_run.model.policy import Policy
from pcr_run.model.precision import cast_once
from pcr_run.ragged import Ragged

BETA = 0.5
LENGTHS = (5, 3)


def gradients(
    model: PreTrainedModel, policy: Policy, make: Callable[[int], TwoGradients], context: Context
) -> dict[str, Tensor]:
    """g_pla and g_sta of what is tracked, the plain gradient of all other parameters, of two arbitrary cotangents.

    ``make`` gives an empty collection for one group of so many rows; ``context`` is autocast.
    """
    two, generator = make(len(LENGTHS)), torch.Generator().manual_seed(0)

    def say(hidden: Float[Tensor, "tokens width"]) -> Cotangents:
        total, sta = torch.randn(2, *hidden.shape, generator=generator).to(hidden)
        return Cotangents(total, sta if two.names else None)

    def forward(tokens: Tokens) -> Float[Tensor, "tokens width"]:
        with context():
            return policy.hidden(tokens)

    with context(), two, cast_once(model):
        for length in LENGTHS:
            rows = Ragged((length,), model.device)
            tokens = Tokens(rows.positions % policy.vocabulary, rows)
            two.add(lambda tokens=tokens: forward(tokens), say, BETA, policy.seen(rows))  # type: ignore[misc]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found |= {f"{name} (reward)": gradient for name, gradient in two.plasticity().items()}
    return found | {f"{name} (KL)": gradient for name, gradient in two.stability().items()}
