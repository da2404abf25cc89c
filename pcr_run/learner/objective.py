"""The two losses of GRPO and their cotangents in closed form (paper Eq. 1-9): pure functions of tensors, no autograd.

Both losses are sums over the tokens of a minibatch, ``loss = sum_t weight_t * per_token_t``, so a minibatch can be cut
into any pieces and their terms added. ``beta`` stays outside. A token of weight 0 gives exactly 0 whatever else it
holds. Arithmetic is done in the dtype of the log-probs; losses are summed in float64.

Example, two responses to one prompt, the first one right (advantage 1 / sqrt(2), but for the eps)::

    >>> a = advantages(torch.tensor([[1.0, 0.0]]), "standard")
    >>> w = token_weights(torch.tensor([[True, True], [True, False]]), "sequence_mean", 8)  # [[.25, .25], [.5, 0]]
    >>> logp = torch.full((2, 2), -1.0)
    >>> surrogate(logp, logp, a.reshape(2, 1), w, 0.2, 0.2).cotangent                       # -w * A, on policy
    tensor([[-0.1768, -0.1768],
            [ 0.3535,  0.0000]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcr_run.errors import ConfigError

ADVANTAGE_EPS = 1e-4
"""Added to the standard deviation of a group's rewards, as TRL does."""


@dataclass(frozen=True)
class Term:
    """One loss over some tokens: its value, 0-d float64, and its derivative by the input, in the input's shape."""

    loss: Tensor
    cotangent: Tensor


@dataclass(frozen=True)
class SurrogateTerm(Term):
    """The surrogate's term; ``clipped`` is true at the tokens of non-zero weight where the clip takes the gradient."""

    clipped: Tensor


def zero_advantage(rewards: Tensor) -> Tensor:
    """Groups [P] whose rewards [P, G] are all equal: nothing to learn from them."""
    return rewards.amax(-1) == rewards.amin(-1)


def advantages(rewards: Tensor, kind: str) -> Tensor:
    """Advantages [P, G] of G responses to each of P prompts; exactly 0 where a group's rewards are all equal.

    ``standard``: centred and divided by (std + 1e-4), std with ddof 1 (Shao et al. 2024, as TRL).
    ``dr_grpo``: centred only (Liu et al. 2025).
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    match kind:
        case "standard":
            scale = rewards.std(-1, keepdim=True, correction=min(1, rewards.shape[-1] - 1)) + ADVANTAGE_EPS
        case "dr_grpo":
            scale = torch.ones_like(centred)
        case _:
            raise ConfigError("learner.advantage", f"unknown kind {kind!r}; standard or dr_grpo")
    return torch.where(zero_advantage(rewards)[:, None], 0.0, centred / scale)


def token_weights(mask: Tensor, aggregation: str, max_new_tokens: int) -> Tensor:
    """Weights [N, T], float64, that make a sum over tokens the wanted mean over a minibatch's N responses.

    ``mask`` [N, T] is true (1) where a token counts, T_i of them in row i. ``sequence_mean``: 1 / (N T_i) (paper
    Eq. 1); ``token_mean``: 1 / sum_i T_i (DAPO); ``constant``: 1 / (N max_new_tokens) (Dr. GRPO). A row without tokens
    weighs 0 and still counts in N.
    """
    mask = mask.to(torch.float64)
    rows = max(len(mask), 1)
    match aggregation:
        case "sequence_mean":
            return mask / (rows * mask.sum(-1, keepdim=True).clamp_min(1))
        case "token_mean":
            return mask / mask.sum().clamp_min(1)
        case "constant":
            return mask / (rows * max_new_tokens)
    raise ConfigError("learner.aggregation", f"unknown {aggregation!r}; sequence_mean, token_mean or constant")


def surrogate(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, weight: Tensor, clip_low: float, clip_high: float
) -> SurrogateTerm:
    """L_pla = -sum w min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = exp(logp - old_logp) (paper Eq. 2-3).

    All tensors broadcast to the shape of ``logp``; the cotangent is d L_pla / d logp. Where the clip is active the
    gradient is 0; on its very edge it is not. The exponent of R stops at ``largest_exponent``: beyond it loss and
    gradient stay where they are there, large and finite (such a ratio only counts where A < 0).
    """
    advantage, weight = advantage.to(logp.dtype), weight.to(logp.dtype)
    ratio = (logp - old_logp).clamp(max=largest_exponent(logp.dtype)).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    outside = torch.where(advantage > 0, ratio > 1 + clip_high, (ratio < 1 - clip_low) & (advantage < 0))
    counts = (weight != 0).expand_as(logp)
    cotangent = torch.where(counts & ~outside, -weight * advantage * ratio, 0.0)
    return SurrogateTerm(total(-weight * gain, counts), cotangent, counts & outside)


def importance(difference: Tensor, mask: Tensor, level: str, cap: float) -> tuple[Tensor, float]:
    """Truncated importance weights [N, T] of samples that another policy drew, and the share of tokens truncated.

    ``difference`` [N, T]: log-prob of each token under the learner's policy minus under the one that drew it. Weights
    are min(exp(difference), cap) per ``token``, or the product over a row's tokens, truncated, per ``sequence``
    (Ionides 2008; Yao et al. 2025, 'Your efficient RL framework secretly brings you off-policy RL training'). 1 where
    ``mask`` is false.
    """
    exponent = torch.where(mask, difference, 0.0)
    if level == "sequence":
        exponent = exponent.sum(-1, keepdim=True).expand_as(exponent)
    ratio = exponent.clamp(max=largest_exponent(exponent.dtype)).exp()
    truncated = ((ratio > cap) & mask).sum() / mask.sum().clamp_min(1)
    return torch.where(mask, ratio.clamp(max=cap), 1.0), truncated.item()


def penalty(logp: Tensor, ref_logp: Tensor, weight: Tensor, kind: str) -> Term:
    """L_sta from the sampled tokens alone, with d = ref_logp - logp; the cotangent is d L_sta / d logp.

    ``k1``: -d; ``k2``: d^2 / 2; ``k3``: exp(d) - d - 1 (Schulman 2020; k3 is the estimator of Shao et al. 2024).
    k3 uses expm1, so that it keeps its digits near d = 0; its d stops at ``largest_exponent``, above which loss and
    gradient stay where they are there.
    """
    weight = weight.to(logp.dtype)
    d = ref_logp - logp
    match kind:
        case "k1":
            value, slope = -d, torch.ones_like(d)
        case "k2":
            value, slope = d.square() / 2, -d
        case "k3":
            d = d.clamp(max=largest_exponent(logp.dtype))
            value, slope = d.expm1() - d, -d.expm1()
        case _:
            raise ConfigError("learner.kl", f"unknown estimator {kind!r}; k1, k2, k3 or exact")
    counts = (weight != 0).expand_as(logp)
    return Term(total(weight * value, counts), torch.where(counts, weight * slope, 0.0))


def exact_kl(logits: Tensor, ref_logits: Tensor, weight: Tensor) -> Term:
    """L_sta = sum_t w_t KL(softmax(logits_t) || softmax(ref_logits_t)), the paper's definition (Eq. 6).

    ``logits`` and ``ref_logits`` [M, V], ``weight`` [M]. The cotangent [M, V] is d L_sta / d logits =
    w p (log p - log q - KL). Entries of probability 0 (logit -inf) add nothing; the loss is infinite where the policy
    has mass and the reference none.
    """
    weight = weight.to(logits.dtype)
    logp = logits.log_softmax(-1)
    p = logp.exp()
    excess = torch.where(p > 0, logp - ref_logits.log_softmax(-1), 0.0)
    kl = (p * excess).sum(-1)
    counts = weight != 0
    cotangent = torch.where(counts[:, None], weight[:, None] * p * (excess - kl[:, None]), 0.0)
    return Term(total(weight * kl, counts), cotangent)


def total(values: Tensor, counts: Tensor) -> Tensor:
    """Sum in float64 over the tokens that count, 0-d."""
    return torch.where(counts, values, 0.0).sum(dtype=torch.float64)


def largest_exponent(dtype: torch.dtype) -> float:
    """Half the exponent that would overflow (354 in float64, 44 in float32): exp of it may be multiplied safely."""
    return math.log(torch.finfo(dtype).max) / 2
