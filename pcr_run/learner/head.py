"""From hidden states to what both losses say of them: log-probs, cotangents and a record of sums, in blocks of tokens.

With k1, k2 and k3 a token's two cotangents at the final hidden state are multiples of one vector,
W^T (onehot - softmax) / temperature, so the head is run once, and pulled back through once. The exact KL has a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pcr_run.distributed import ranks
from pcr_run.gradients import Cotangents
from pcr_run.gradients.products import add_product, product
from pcr_run.learner import objective
from pcr_run.learner.batch import Rows
from pcr_run.learner.surrogate import BY_RESPONSE, SURROGATES, Clip, by_response
from pcr_run.model import fused
from pcr_run.model.packing import computed
from pcr_run.model.policy import Policy, blocks, tempered, token_logits, token_logprobs
from pcr_run.schema import LearnerConfig

METRICS = ("loss_pla", "loss_sta", "kl", "entropy", "clipped", "mismatch/mean", "mismatch/kl", "mismatch/max")


@dataclass
class Sums:
    """What an update's tokens add up to, float64 on the device: nothing waits for it until the update is done."""

    device: torch.device
    values: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {key: torch.zeros((), dtype=torch.float64, device=self.device) for key in METRICS}

    def add(self, **found: Tensor) -> None:
        """Add sums over some tokens."""
        for key, value in found.items():
            self.values[key] += value.double()

    def mismatch(self, off: Float[Tensor, " sampled"]) -> None:
        """Differences of log-probs by learner and worker: rounding, if the worker's weights are the learner's."""
        self.values["mismatch/mean"] += off.abs().double().sum()
        self.values["mismatch/kl"] += (off.expm1() - off).double().sum()
        self.values["mismatch/max"] = torch.maximum(self.values["mismatch/max"], off.abs().double().amax())

    def means(self, tokens: int, reference: bool) -> dict[str, float]:
        """Metrics of the update: the losses are sums already, the others become means over its tokens.

        ``tokens``: of all ranks.
        """
        found = dict(zip(METRICS, ranks.total(torch.stack(list(self.values.values())).cpu()).tolist(), strict=True))
        found["mismatch/max"] = ranks.largest(self.values["mismatch/max"].cpu()).item()
        count = max(tokens, 1)
        out = {"loss_pla": found["loss_pla"]}
        if reference:
            out |= {"loss_sta": found["loss_sta"], "kl": found["kl"] / count}
        return out | {
            "entropy": found["entropy"] / count,
            "clip_fraction": found["clipped"] / count,
            "mismatch/mean": found["mismatch/mean"] / count,
            "mismatch/kl": found["mismatch/kl"] / count,
            "mismatch/max": found["mismatch/max"],
        }


class Head:
    """What the losses say of hidden states; gradients of the head's own weights are accumulated on the way."""

    def __init__(self, policy: Policy, reference: Policy | None, cfg: LearnerConfig, temperature: float) -> None:
        self.policy, self.reference, self.cfg, self.temperature = policy, reference, cfg, temperature
        self.surrogate, self.clip = objective.known("learner.surrogate", cfg.surrogate, SURROGATES), Clip.of(cfg)

    @torch.no_grad()
    def __call__(
        self,
        hidden: Float[Tensor, "tokens width"],
        referred: Float[Tensor, "tokens width"] | None,
        rows: Rows,
        sums: Sums,
        two: bool,
    ) -> Cotangents:
        """Cotangents at ``hidden``, the policy's features of ``rows``; ``referred`` are the reference's.

        ``two``: keep that of L_sta apart.
        """
        before = rows.sampled - 1  # the features of a token predict the next one
        h, targets = hidden[before], rows.tokens.ids[rows.sampled]
        total = torch.zeros_like(h) if rows.informative or not two else None
        sta = torch.zeros_like(h) if two else None
        whole = self._by_response(h, targets, rows) if self.cfg.surrogate in BY_RESPONSE else None
        alive = [
            self._block(
                block, h, None if referred is None else referred[before], targets, rows, sums, whole, total, sta
            )
            for block in blocks(targets, self.policy.vocabulary)
        ]
        if two and rows.old is not None and not any(bool(each) for each in alive):  # all clipped
            total = None
        return Cotangents(*(None if x is None else _scatter(x, before, hidden) for x in (total, sta)))

    def _block(
        self,
        block: slice,
        h: Float[Tensor, "sampled width"],
        referred: Float[Tensor, "sampled width"] | None,
        targets: Int[Tensor, " sampled"],
        rows: Rows,
        sums: Sums,
        whole: Float[Tensor, " sampled"] | None,
        total: Float[Tensor, "sampled width"] | None,
        sta: Float[Tensor, "sampled width"] | None,
    ) -> Bool[Tensor, ""]:
        """One block of tokens: logits, log-probs, both losses, and their cotangents into ``total`` and ``sta``.

        ``whole``: the logarithm of the ratio where it is one for a response. Returns whether L_pla depends on any of
        the tokens.
        """
        cfg = self.cfg
        logits = token_logits(self.policy, h[block], self.temperature)
        logp, entropy, probabilities = fused.on(logits.device, fused.log_softmax)(logits, targets[block])
        old = logp if rows.old is None else rows.old[block].to(logp.dtype)
        log_ratio = logp - old if whole is None else whole[block]
        surrogate = self.surrogate(logp, log_ratio, rows.advantage[block], rows.weight[block], self.clip)
        at_pla, at_sta, exact = surrogate.cotangent, torch.zeros_like(logp), None
        if referred is not None:
            assert self.reference is not None
            ref_logits = token_logits(self.reference, referred[block], self.temperature)
            ref_logp, weight = token_logprobs(ref_logits, targets[block]), rows.kl_weight[block]
            if cfg.kl == "exact":
                penalty = objective.exact_kl(logits, ref_logits, weight)
                exact = penalty.cotangent
            elif rows.excess is not None:
                penalty = objective.variance(logp, ref_logp, weight, rows.excess[block])
                at_sta = penalty.cotangent
            else:
                penalty = objective.penalty(logp, ref_logp, weight, cfg.kl, logp - old)
                at_sta = penalty.cotangent
            sums.add(loss_sta=penalty.loss, kl=objective.penalty(logp, ref_logp, torch.ones_like(logp), "k3").loss)
        sums.add(loss_pla=surrogate.loss, clipped=surrogate.clipped.sum(), entropy=entropy.sum(dtype=torch.float64))
        sums.mismatch(old - rows.drawn[block].to(old.dtype))
        at_total = at_pla + cfg.beta * at_sta
        direction = probabilities.neg_()  # in place: onehot - softmax, the derivative of a log-prob by the logits
        direction[torch.arange(len(logp), device=logp.device), targets[block]] += 1
        weights = _weights(self.policy)
        if exact is None:
            vector = self._pull(direction)
            if total is not None:
                total[block] = at_total[:, None] * vector
            if sta is not None:
                sta[block] = at_sta[:, None] * vector
        elif sta is not None:
            sta[block] = self._pull(exact)
        if exact is not None or weights is not None:
            at_logits = direction.mul_(at_total[:, None])
            if exact is not None:
                at_logits = at_logits.add_(exact, alpha=cfg.beta)
                if total is not None:
                    total[block] = self._pull(at_logits)
            if weights is not None:
                accumulate(weights, tempered(at_logits, self.temperature), h[block])
        return at_pla.any()

    def _by_response(
        self, h: Float[Tensor, "sampled width"], targets: Int[Tensor, " sampled"], rows: Rows
    ) -> Float[Tensor, " sampled"] | None:
        """The mean log-ratio of each token's response: all of its log-probs, before any gradient. On policy it is 0."""
        if rows.old is None or not len(targets):
            return None
        parts = [
            token_logprobs(token_logits(self.policy, h[block], self.temperature), targets[block])
            for block in blocks(targets, self.policy.vocabulary)
        ]
        logp = torch.cat(parts)
        return by_response(logp - rows.old.to(logp.dtype), rows.counts)

    def _pull(self, at_logits: Float[Tensor, "block vocabulary"]) -> Float[Tensor, "block width"]:
        """A cotangent at the scaled logits, at the features."""
        at_logits = tempered(at_logits, self.temperature)
        head = self.policy.head
        return at_logits.to(head.weight.dtype) @ head.weight if isinstance(head, nn.Linear) else at_logits


@torch.no_grad()
def accumulate(head: nn.Linear, at_logits: Float[Tensor, "block vocabulary"], h: Float[Tensor, "block width"]) -> None:
    """Add a block's gradient to that of the head's own weights."""
    left, right, weight = computed(at_logits.to(h.dtype)).T, computed(h), head.weight
    if weight.grad is not None:
        add_product(weight.grad, left, right)
    elif weight.requires_grad:
        weight.grad = product(left, right).to(weight.dtype)
    if head.bias is not None and head.bias.requires_grad:
        found = at_logits.sum(0).to(head.bias.dtype)
        head.bias.grad = found if head.bias.grad is None else head.bias.grad.add_(found)


def _weights(policy: Policy) -> nn.Linear | None:
    """The head, if it has weights to train."""
    return policy.head if isinstance(policy.head, nn.Linear) and policy.trained else None


def _scatter(values: Tensor, where: Int[Tensor, " sampled"], like: Float[Tensor, "tokens width"]) -> Tensor:
    """Values of some tokens at their places among all; zeros elsewhere."""
    return torch.zeros_like(like).index_copy_(0, where, values.to(like.dtype))
