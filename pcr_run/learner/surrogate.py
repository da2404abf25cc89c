"""What an update gains from a token, by how much more likely it has become: pure functions of tensors, no autograd.

A surrogate is one function and one name in ``SURROGATES``. It gets the log-prob of each token, the logarithm of its
ratio R to the policy that sampled, its advantage A and its weight w, and gives L_pla and d L_pla / d logp.

GSPO's ratio belongs to a whole response. ``by_response`` gives each of its T_i tokens the mean log-ratio and the mean
weight; so sum_t w_t R_t A is W_i s_i A, and its derivative by each log-prob W_i s_i A / T_i, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pcr_run.learner.objective import Term, largest_exponent, total
from pcr_run.schema import LearnerConfig, clip_range


@dataclass(frozen=True)
class SurrogateTerm(Term):
    """The surrogate's term; ``clipped`` is true at the tokens of non-zero weight where the clip acts."""

    clipped: Tensor


@dataclass(frozen=True)
class Clip:
    """Where ratios are clipped: to [1 - low, 1 + high]; ``dual``: how often |A| a loss may be where A < 0."""

    low: float
    high: float
    dual: float | None = None

    @classmethod
    def of(cls, cfg: LearnerConfig) -> Clip:
        """The configured range, or the surrogate's own."""
        return cls(*clip_range(cfg), cfg.dual_clip)


def clip(
    logp: Float[Tensor, "*tokens"],
    log_ratio: Float[Tensor, "*#tokens"],
    advantage: Float[Tensor, "*#tokens"],
    weight: Float[Tensor, "*#tokens"],
    at: Clip,
) -> SurrogateTerm:
    """L_pla = -sum w min(R A, clip(R, 1 - low, 1 + high) A) (paper Eq. 2-3), and at least ``dual`` A where A < 0.

    All tensors broadcast to the shape of ``logp``. Where a clip is active the gradient is 0; on its very edge it is
    not. The exponent of R stops at ``largest_exponent``: beyond it loss and gradient stay where they are there, large
    and finite (such a ratio only counts where A < 0). The dual clip: Ye et al. 2020 (arXiv 1912.09729), Eq. 5.
    """
    advantage, weight, ratio = _as(logp, advantage, weight, log_ratio)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - at.low, 1 + at.high) * advantage)
    outside = torch.where(advantage > 0, ratio > 1 + at.high, (ratio < 1 - at.low) & (advantage < 0))
    if at.dual is not None:
        outside = outside | ((ratio > at.dual) & (advantage < 0))
        gain = torch.where(advantage < 0, torch.maximum(gain, at.dual * advantage), gain)
    counts = (weight != 0).expand_as(logp)
    cotangent = torch.where(counts & ~outside, -weight * advantage * ratio, 0.0)
    return SurrogateTerm(total((-weight * gain).expand_as(logp), counts), cotangent, counts & outside)


def cispo(
    logp: Float[Tensor, "*tokens"],
    log_ratio: Float[Tensor, "*#tokens"],
    advantage: Float[Tensor, "*#tokens"],
    weight: Float[Tensor, "*#tokens"],
    at: Clip,
) -> SurrogateTerm:
    """L_pla = -sum w c A logp with the constant c = clip(R, 1 - low, 1 + high) (MiniMax-M1, arXiv 2506.13585, Eq. 4).

    Every token keeps a gradient; ``clipped`` are those whose c is not R.
    """
    advantage, weight, ratio = _as(logp, advantage, weight, log_ratio)
    kept = ratio.clamp(1 - at.low, 1 + at.high)
    counts = (weight != 0).expand_as(logp)
    cotangent = torch.where(counts, -weight * advantage * kept, 0.0)
    return SurrogateTerm(total(-weight * advantage * kept * logp, counts), cotangent, counts & (kept != ratio))


def reinforce(
    logp: Float[Tensor, "*tokens"],
    log_ratio: Float[Tensor, "*#tokens"],
    advantage: Float[Tensor, "*#tokens"],
    weight: Float[Tensor, "*#tokens"],
    at: Clip,
) -> SurrogateTerm:
    """L_pla = -sum w A logp, no ratio and no clip, whatever policy sampled (Williams 1992; GVPO, arXiv 2504.19599)."""
    advantage, weight, _ = _as(logp, advantage, weight, log_ratio)
    counts = (weight != 0).expand_as(logp)
    slope = (-weight * advantage).expand_as(logp)
    return SurrogateTerm(total(slope * logp, counts), torch.where(counts, slope, 0.0), torch.zeros_like(counts))


Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor, Clip], SurrogateTerm]

SURROGATES: dict[str, Surrogate] = {"clip": clip, "gspo": clip, "cispo": cispo, "reinforce": reinforce}
"""The paper's (Schulman et al. 2017); GSPO's sequence ratio (Zheng et al. 2025, arXiv 2507.18071); CISPO's weight;
no ratio at all."""

BY_RESPONSE = ("gspo",)
"""Those whose ratio is one for a whole response: the geometric mean of its tokens' ratios."""


def by_response(values: Float[Tensor, " sampled"], counts: Int[Tensor, " rows"]) -> Float[Tensor, " sampled"]:
    """Each row's mean at all of its tokens, which lie one row after the other; ``counts`` tokens a row."""
    sums = torch.segment_reduce(values, "sum", lengths=counts, unsafe=True)  # unlike index_add the same on every run
    return (sums / counts.clamp_min(1)).repeat_interleave(counts, output_size=len(values))


def even(weight: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"]) -> Float[Tensor, "rows length"]:
    """The weight of each row, spread evenly over its tokens."""
    return weight.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1) * mask


def _as(logp: Tensor, advantage: Tensor, weight: Tensor, log_ratio: Shaped[Tensor, "*_"]) -> tuple[Tensor, ...]:
    """Advantage, weight and ratio in the dtype of the log-probs."""
    ratio = log_ratio.to(logp.dtype).clamp(max=largest_exponent(logp.dtype)).exp()
    return advantage.to(logp.dtype), weight.to(logp.dtype), ratio
