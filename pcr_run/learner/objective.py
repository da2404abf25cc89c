"""GRPO's advantages, weights and penalty, and its cotangents in closed form (paper Eq. 1-9): no autograd.

Both losses are sums over the tokens of a minibatch, ``loss = sum_t weight_t * per_token_t``, so a minibatch can be cut
into any pieces and their terms added. ``beta`` stays outside. A token of weight 0 gives exactly 0 whatever else it
holds. Arithmetic is done in the dtype of the log-probs; losses are summed in float64.

Example, two responses to one prompt, the first one right (advantage 1 / sqrt(2), but for the eps)::

    >>> a = advantages(torch.tensor([[1.0, 0.0]]), "standard")
    >>> w = token_weights(torch.tensor([[True, True], [True, False]]), "sequence_mean", 8)  # [[.25, .25], [.5, 0]]
    >>> logp = torch.full((2, 2), -1.0)
    >>> clip(logp, logp - logp, a.reshape(2, 1), w, Clip(0.2, 0.2)).cotangent  # of surrogate.py: -w * A, on policy
    tensor([[-0.1768, -0.1768],
            [ 0.3535,  0.0000]])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pcr_run.errors import ConfigError

T = TypeVar("T")

ADVANTAGE_EPS = 1e-4
"""Added to the standard deviation of a group's rewards, as TRL does."""


@dataclass(frozen=True)
class Term:
    """One loss over some tokens: its value, 0-d float64, and its derivative by the input, in the input's shape."""

    loss: Tensor
    cotangent: Tensor


def zero_advantage(rewards: Float[Tensor, "groups rows"]) -> Bool[Tensor, " groups"]:
    """Groups whose rewards are all equal: nothing to learn from them."""
    return rewards.amax(-1) == rewards.amin(-1)


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "standard": lambda rewards: rewards.std(-1, keepdim=True, correction=min(1, rewards.shape[-1] - 1)) + ADVANTAGE_EPS,
    "dr_grpo": lambda rewards: torch.ones_like(rewards[:, :1]),
}
"""What a group's centred rewards [P, G] are divided by [P, 1]: the standard deviation with ddof 1 (Shao et al. 2024, as
TRL); nothing (Liu et al. 2025)."""


def advantages(rewards: Float[Tensor, "groups rows"], kind: str) -> Float[Tensor, "groups rows"]:
    """Advantages of G responses to each of P prompts by ``ADVANTAGES``; exactly 0 where a group's rewards are equal."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    scale = known("learner.advantage", kind, ADVANTAGES)(rewards)
    return torch.where(zero_advantage(rewards)[:, None], 0.0, centred / scale)


AGGREGATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sequence_mean": lambda mask, longest: mask / (len(mask) * mask.sum(-1, keepdim=True).clamp_min(1)),
    "token_mean": lambda mask, longest: mask / mask.sum().clamp_min(1),
    "constant": lambda mask, longest: mask / (len(mask) * longest),
    "sequence_sum": lambda mask, longest: mask / len(mask),
}
"""Weights [N, T] of tokens from their mask: 1 / (N T_i) (paper Eq. 1), 1 / sum_i T_i (DAPO), 1 / (N longest)
(Dr. GRPO), 1 / N (log-probs of whole responses) for T_i tokens in row i."""


def token_weights(
    mask: Shaped[Tensor, "rows length"], aggregation: str, max_new_tokens: int
) -> Float[Tensor, "rows length"]:
    """Weights, float64, that make a sum over tokens the wanted mean over a minibatch's N responses.

    ``mask`` is true (1) where a token counts. A row without tokens weighs 0 and still counts in N.
    """
    aggregate = known("learner.aggregation", aggregation, AGGREGATIONS)
    return aggregate(mask.to(torch.float64), max_new_tokens)


BOUNDED: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "truncate": lambda ratio, floor, cap: ratio.clamp(floor, cap),
    "mask": lambda ratio, floor, cap: torch.where((ratio < floor) | (ratio > cap), 0.0, ratio),
}
"""Importance ratios outside [floor, cap] become the bound (truncated: Ionides 2008; Yao et al.
2025, "Your efficient RL framework secretly brings you off-policy RL training") or 0, which takes their tokens out (MIS:
Liu et al. 2025, 'When speed kills stability'). What is no number stays so: the update is skipped and counted."""


def importance(
    difference: Float[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    level: str,
    cap: float,
    floor: float = 0.0,
    mode: str = "truncate",
) -> tuple[Float[Tensor, "rows length"], float]:
    """Bounded importance weights of samples that another policy drew, and the share of tokens out of bounds.

    ``difference``: log-prob of each token under the learner's policy minus under the one that drew it. Ratios are
    exp(difference) per ``token``, or the product over a row's tokens per ``sequence``, ``BOUNDED`` by ``mode``. 1 where
    ``mask`` is false.
    """
    exponent = torch.where(mask, difference, 0.0)
    if level == "sequence":
        exponent = exponent.sum(-1, keepdim=True).expand_as(exponent)
    ratio = exponent.clamp(max=largest_exponent(exponent.dtype)).exp()
    outside = (((ratio > cap) | (ratio < floor)) & mask).sum() / mask.sum().clamp_min(1)
    bounded = known("rollout.importance_mode", mode, BOUNDED)(ratio, floor, cap)
    return torch.where(mask, bounded, 1.0), outside.item()


def k1(d: Tensor) -> tuple[Tensor, Tensor]:
    """-d: the log-ratio itself; its expected gradient on policy is 0."""
    return -d, torch.ones_like(d)


def k2(d: Tensor) -> tuple[Tensor, Tensor]:
    """d^2 / 2: its gradient on policy is that of the KL."""
    return d.square() / 2, -d


def k3(d: Tensor) -> tuple[Tensor, Tensor]:
    """exp(d) - d - 1 (Schulman 2020; the estimator of Shao et al. 2024), with expm1 to keep its digits near d = 0.

    d stops at ``largest_exponent``, above which value and slope stay where they are there.
    """
    d = d.clamp(max=largest_exponent(d.dtype))
    growth = d.expm1()
    return growth - d, -growth


def k3_corrected(d: Tensor) -> tuple[Tensor, Tensor]:
    """k3 times the ratio R to the policy that sampled (DeepSeek-V3.2): of R k3 the derivative by logp is -R d.

    Its expectation is the gradient of the KL whatever policy sampled. Value and slope without R.
    """
    return k3(d)[0], -d.clamp(max=largest_exponent(d.dtype))


KL: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]] | None] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_corrected": k3_corrected,
    "exact": None,
    "variance": None,
}
"""Estimators of the KL from sampled tokens: (value, derivative by logp) from d = ref_logp - logp; ``exact`` needs whole
distributions (``exact_kl``), ``variance`` whole groups (``variance``)."""


CORRECTED = ("k3_corrected",)
"""Those that are multiplied by R."""


def penalty(
    logp: Float[Tensor, "*tokens"],
    ref_logp: Float[Tensor, "*tokens"],
    weight: Float[Tensor, "*tokens"],
    kind: str,
    log_ratio: Float[Tensor, "*#tokens"] | None = None,
) -> Term:
    """L_sta by an estimator of ``KL`` from the sampled tokens alone; the cotangent is d L_sta / d logp.

    ``log_ratio``: log R, for those that are ``CORRECTED``; None = on policy.
    """
    estimate = known("learner.kl", kind, KL)
    if estimate is None:
        raise ConfigError("learner.kl", f"{kind!r} needs more than the sampled tokens alone")
    weight = weight.to(logp.dtype)
    value, slope = estimate(ref_logp - logp)
    if kind in CORRECTED and log_ratio is not None:
        ratio = log_ratio.to(logp.dtype).clamp(max=largest_exponent(logp.dtype)).exp()
        value, slope = value * ratio, slope * ratio
    counts = (weight != 0).expand_as(logp)
    return Term(total(weight * value, counts), torch.where(counts, weight * slope, 0.0))


def taken(d: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], kind: str) -> Float[Tensor, " rows"]:
    """What ``learner.kl_in=reward`` takes from a reward: an estimator of ``KL``, summed over the response."""
    estimate = known("learner.kl", kind, KL)
    assert estimate is not None
    return torch.where(mask, estimate(d)[0], 0.0).sum(-1)


def excess(log_ratio: Float[Tensor, "rows length"], group: int) -> Float[Tensor, " rows"]:
    """A response's log-ratio to the reference, the sum over its tokens, minus the mean of its ``group`` rows."""
    whole = log_ratio.sum(-1).view(-1, group)
    return (whole - whole.mean(-1, keepdim=True)).flatten()


def variance(
    logp: Float[Tensor, "*tokens"],
    ref_logp: Float[Tensor, "*tokens"],
    weight: Float[Tensor, "*tokens"],
    excess: Float[Tensor, "*tokens"],
) -> Term:
    """L_sta = 1/2 sum_i W_i c_i^2 with c_i the ``excess`` of a token's response, all rows of a group of one weight W.

    Half the variance of log-ratios within a group (GVPO's, Zhang et al. 2025, arXiv 2504.19599). As the c_i of a group
    add up to 0, its derivative by every log-prob of row i is W_i c_i, and the loss is the sum over tokens of
    w c (logp - ref_logp) / 2.
    """
    weight, excess = weight.to(logp.dtype), excess.to(logp.dtype)
    counts = (weight != 0).expand_as(logp)
    slope = weight * excess
    return Term(total(slope * (logp - ref_logp) / 2, counts), torch.where(counts, slope, 0.0))


def exact_kl(
    logits: Float[Tensor, "tokens vocabulary"],
    ref_logits: Float[Tensor, "tokens vocabulary"],
    weight: Float[Tensor, " tokens"],
) -> Term:
    """L_sta = sum_t w_t KL(softmax(logits_t) || softmax(ref_logits_t)), the paper's definition (Eq. 6).

    The cotangent is d L_sta / d logits = w p (log p - log q - KL). Entries of probability 0 (logit -inf) add nothing;
    the loss is infinite where the policy has mass and the reference none.
    """
    weight = weight.to(logits.dtype)
    logp = logits.log_softmax(-1)
    p = logp.exp()
    excess = torch.where(p > 0, logp - ref_logits.log_softmax(-1), 0.0)
    kl = (p * excess).sum(-1)
    counts = weight != 0
    cotangent = torch.where(counts[:, None], weight[:, None] * p * (excess - kl[:, None]), 0.0)
    return Term(total(weight * kl, counts), cotangent)


def known(key: str, name: str, table: Mapping[str, T]) -> T:
    """The entry ``name`` of a table; ConfigError under ``key`` where it has none."""
    if name not in table:
        raise ConfigError(key, f"{name!r} is not known; right: {', '.join(table)}")
    return table[name]


def total(values: Float[Tensor, "*tokens"], counts: Bool[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """Sum in float64 over the tokens that count."""
    return torch.where(counts, values, 0.0).sum(dtype=torch.float64)


def largest_exponent(dtype: torch.dtype) -> float:
    """Half the exponent that would overflow (354 in float64, 44 in float32): exp of it may be multiplied safely."""
    return math.log(torch.finfo(dtype).max) / 2
