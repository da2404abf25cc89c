"""The policy learner: token log-probs, two cotangents, gradient table, resolved update, AdamW step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel

from pcr_run.errors import RunError
from pcr_run.gradients.groups import select
from pcr_run.gradients.portable import TwoGradients, tappable
from pcr_run.gradients.taps import chunks
from pcr_run.learner import objective
from pcr_run.learner.layers import Products, layer_rows, summary
from pcr_run.model.policy import blocks, disable_dropout, freeze, logprobs, split, token_logits, token_logprobs
from pcr_run.resolver import from_config
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig


@dataclass(frozen=True)
class Batch:
    """One step's responses, N = P * G rows, prompt-major, right-padded to T.

    ``ids`` [N, T] prompt and response tokens; ``mask`` [N, T] true where a token was sampled and counts; ``advantages``
    [N]; ``kl`` [N] 1 where the row's KL counts, else 0; ``group`` G; ``drawn`` [N, T] log-probs of the sampled tokens
    under the policy that the rollout worker sampled from, 0 elsewhere.
    """

    ids: Tensor
    mask: Tensor
    drawn: Tensor
    advantages: Tensor
    kl: Tensor
    group: int


@dataclass(frozen=True)
class Rows:
    """Some rows of a minibatch: token ids, mask, advantages [rows], the two losses' token weights and old log-probs.

    [rows, T] where not said otherwise; ``drawn`` log-probs by the rollout worker, ``old`` by the learner's policy of
    that time, None where it is the present one.
    """

    ids: Tensor
    mask: Tensor
    drawn: Tensor
    advantages: Tensor
    weight: Tensor
    kl_weight: Tensor
    old: Tensor | None

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(*(None if x is None else x[rows] for x in vars(self).values()))  # type: ignore[arg-type]


class Learner:
    """Owns the trained model, its optimizer, the reference policy and the resolver."""

    def __init__(
        self,
        model: PreTrainedModel,
        learner: LearnerConfig,
        resolver: ResolverConfig,
        measure: MeasureConfig,
        *,
        steps: int,
        rollout: RolloutConfig,
    ) -> None:
        self.model, self.cfg, self.measure, self.rollout = model, learner, measure, rollout
        self.temperature, self.max_new_tokens = rollout.temperature, rollout.max_new_tokens
        self.resolver, self.granularity = from_config(resolver), resolver.granularity
        self.acting = select(model, resolver.modules, resolver.pattern) if self.resolver.needs_table else []
        self.measured = select(model, measure.modules) if measure.modules else self.acting
        self.tracked = list(dict.fromkeys([*self.acting, *self.measured]))
        disable_dropout(model)
        model.eval()
        if learner.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()  # transformers checkpoints in training mode only; dropout is off all the same
        output = model.get_output_embeddings()
        head = {id(p) for p in output.parameters()} if output is not None else set()
        whole = any(id(p) in head for name, p in model.named_parameters() if name in set(self.tracked))
        self.policy = split(model, whole)
        self.tapped = tappable(model, self.tracked)
        self.reference = freeze(model) if learner.beta > 0 or self.tracked else None
        self.reference_policy = split(self.reference, whole) if self.reference is not None else None
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=learner.lr,
            betas=(learner.betas[0], learner.betas[1]),
            weight_decay=learner.weight_decay,
        )
        updates = steps * learner.epochs * learner.minibatches
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule(learner, updates))
        self.nonfinite = 0

    def update(self, batch: Batch, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """All optimizer steps on one batch. Returns metrics (means over the steps) and rows for layers.jsonl."""
        cfg = self.cfg
        if cfg.reference == "old" and self.reference is not None:
            self.reference.load_state_dict(self.model.state_dict())
        inner = cfg.epochs * cfg.minibatches
        correct = self.rollout.old_logprobs == "engine"
        old = self._old_logprobs(batch) if inner > 1 or correct else None
        importance, truncated = torch.ones_like(batch.drawn), {}
        if old is not None and correct:
            importance, share = objective.importance(
                old - batch.drawn, batch.mask, self.rollout.importance, self.rollout.importance_cap
            )
            truncated = {"mismatch/truncated": share}
        size = len(batch.ids) // cfg.minibatches
        metrics: list[dict[str, float]] = []
        rows: list[dict[str, Any]] = []
        for index in range(inner):
            start = index % cfg.minibatches * size
            part = slice(start, start + size)
            before = None if old is None else old[part]
            new_metrics, new_rows = self._step(batch, part, importance[part], before, step, index)
            metrics.append(new_metrics)
            rows += new_rows
        keys = dict.fromkeys(key for m in metrics for key in m)
        return {key: mean([m[key] for m in metrics if key in m]) for key in keys} | truncated, rows

    def _old_logprobs(self, batch: Batch) -> Tensor:
        """Log-probs [N, T] of the sampled tokens under the policy that begins the step; 0 elsewhere."""
        old = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
        for rows in chunks(len(batch.ids), self.cfg.microbatch):
            with self._autocast():
                new = logprobs(self.policy, batch.ids[rows], batch.mask[rows], self.temperature)
            old = old.to(new.dtype)
            old[rows][batch.mask[rows]] = new
        return old

    def _step(
        self, batch: Batch, part: slice, importance: Tensor, old: Tensor | None, step: int, index: int
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One optimizer step on the whole groups of rows ``part``."""
        cfg, beta = self.cfg, self.cfg.beta
        measuring = bool(self.measured) and step % self.measure.every == 0
        names = self.tracked if measuring else self.acting
        ids, mask = batch.ids[part], batch.mask[part]
        weight = objective.token_weights(mask, cfg.aggregation, self.max_new_tokens)
        kl_weight = weight * batch.kl[part, None]
        minibatch = Rows(ids, mask, batch.drawn[part], batch.advantages[part], weight * importance, kl_weight, old)
        sums = {key: torch.zeros((), dtype=torch.float64, device=ids.device) for key in SUMS}
        self.optimizer.zero_grad(set_to_none=True)
        resolution, two = None, None
        if names:
            two = TwoGradients(
                self.model,
                names,
                rows=len(ids),
                group=batch.group,
                unit=self.measure.unit,
                microbatch=cfg.microbatch,
                tapped={path: m for path, m in self.tapped.items() if f"{path}.weight" in set(names)},
            )
            with two:
                for rows in chunks(len(ids), min(cfg.microbatch, two.max_microbatch)):
                    features, total, sta = self._cotangents(minibatch[rows], sums, two=True)
                    assert sta is not None
                    two.backward((features * (total - beta * sta)).sum(), (features * sta).sum(), beta, len(features))
            resolution = two.resolve(self.resolver, beta, self.granularity, set(self.acting))
        else:
            for rows in chunks(len(ids), cfg.microbatch):
                features, total, _ = self._cotangents(minibatch[rows], sums, two=False)
                torch.autograd.backward((features * total).sum())
        metrics = {
            "lr": float(self.scheduler.get_last_lr()[0]),
            **means(sums, int(mask.sum()), self.reference is not None),
        }
        products = self._optimizer_step(metrics, two if measuring else None)
        if two is None or resolution is None:
            return metrics, []
        acting = self.acting or names
        groups = layer_rows(two.names, resolution, products, acting, self.granularity)
        metrics |= summary(groups)
        if not measuring:
            return metrics, []
        granularity = self.measure.granularity or self.granularity
        if (self.measured, granularity) != (acting, self.granularity):
            groups = layer_rows(two.names, resolution, products, self.measured, granularity)
        return metrics, [{"step": step, "update": index, **row} for row in groups]

    def _cotangents(self, rows: Rows, sums: dict[str, Tensor], two: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features of one microbatch and the cotangents there of L_pla + beta L_sta and, if ``two``, of L_sta.

        All [rows, T, d]. The head is run, differentiated and forgotten a block of tokens at a time; gradients of its
        own weights are accumulated on the way.
        """
        cfg, policy = self.cfg, self.policy
        ids, mask = rows.ids, rows.mask
        with self._autocast():
            features = policy.features(ids)
            before = mask[:, 1:]  # the features at position t - 1 predict token t
            hidden, targets = features.detach()[:, :-1][before], ids[mask]
            advantage = rows.advantages[:, None].expand_as(mask)[mask]
            pla_weight, sta_weight = rows.weight[mask], rows.kl_weight[mask]
            drawn = rows.drawn[mask]
            reference = None
            if self.reference_policy is not None:
                with torch.no_grad():
                    reference = self.reference_policy.features(ids)[:, :-1][before]
            total, sta = torch.zeros_like(hidden), torch.zeros_like(hidden) if two else None
            for block in blocks(len(targets), policy.vocabulary):
                h = hidden[block].requires_grad_()
                logits = token_logits(policy, h, self.temperature)
                logp = token_logprobs(logits, targets[block])
                value = logp.detach()
                sampled = value if rows.old is None else rows.old[mask][block].to(value.dtype)
                surrogate = objective.surrogate(
                    value, sampled, advantage[block], pla_weight[block], cfg.clip_low, cfg.clip_high
                )
                outputs, cotangents = [logp], [surrogate.cotangent]
                if reference is not None and self.reference_policy is not None:
                    with torch.no_grad():
                        ref_logits = token_logits(self.reference_policy, reference[block], self.temperature)
                        ref_logp = token_logprobs(ref_logits, targets[block])
                    if cfg.kl == "exact":
                        penalty = objective.exact_kl(logits.detach(), ref_logits, sta_weight[block])
                        at: Tensor = logits
                    else:
                        penalty = objective.penalty(value, ref_logp, sta_weight[block], cfg.kl)
                        at = logp
                    if sta is not None:
                        (sta[block],) = torch.autograd.grad(at, h, penalty.cotangent, retain_graph=True)
                    outputs, cotangents = [*outputs, at], [*cotangents, cfg.beta * penalty.cotangent]
                    sums["loss_sta"] += penalty.loss.double()
                    sums["kl"] += objective.penalty(value, ref_logp, torch.ones_like(value), "k3").loss.double()
                torch.autograd.backward(outputs, cotangents, inputs=[h, *policy.head_parameters])
                assert h.grad is not None
                total[block] = h.grad
                off = sampled - drawn[block].to(sampled.dtype)  # rounding, if the worker's weights are the learner's
                sums["mismatch/mean"] += off.abs().double().sum()
                sums["mismatch/kl"] += (off.expm1() - off).double().sum()
                sums["mismatch/max"] = torch.maximum(sums["mismatch/max"], off.abs().double().amax())
                sums["loss_pla"] += surrogate.loss.double()
                sums["clipped"] += surrogate.clipped.sum()
                sums["entropy"] += entropy(logits.detach())
        return features, scatter(total, before, features), None if sta is None else scatter(sta, before, features)

    def _optimizer_step(self, metrics: dict[str, float], two: TwoGradients | None) -> Products | None:
        """Clip, step and schedule. Returns the step's products with g_sta where ``two`` measures it.

        An update whose gradient is not finite is skipped, and the schedule does not advance: like AdamW's moments it
        counts the optimizer steps done, so no part of a warm-up is lost. ``RunError`` after too many in a row.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        metrics["grad_norm"] = norm.item()
        if not math.isfinite(metrics["grad_norm"]):
            self.nonfinite += 1
            metrics["nonfinite"] = 1.0
            if self.nonfinite >= self.cfg.max_nonfinite:
                raise RunError(
                    f"the gradient was not finite in {self.nonfinite} updates in a row (learner.max_nonfinite); "
                    "lower learner.lr, or set learner.max_grad_norm"
                )
            return None
        self.nonfinite = 0
        metrics["nonfinite"] = 0.0
        metrics["clip_factor"] = 1.0
        if self.cfg.max_grad_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.cfg.max_grad_norm, norm)
            metrics["clip_factor"] = min(1.0, self.cfg.max_grad_norm / (metrics["grad_norm"] + 1e-6))
        if two is None:
            self.optimizer.step()
            self.scheduler.step()
            return None
        named = dict(self.model.named_parameters())
        before = {name: named[name].detach().clone() for name in two.names}
        self.optimizer.step()
        self.scheduler.step()
        return Products.of({name: before[name].sub_(named[name].detach()) for name in two.names}, two.stability())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.cfg.autocast)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights that the next update depends on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "resolver": self.resolver.state_dict() if hasattr(self.resolver, "state_dict") else {},
            "nonfinite": self.nonfinite,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if hasattr(self.resolver, "load_state_dict"):
            self.resolver.load_state_dict(state["resolver"])
        self.nonfinite = state["nonfinite"]


SUMS = ("loss_pla", "loss_sta", "kl", "entropy", "clipped", "mismatch/mean", "mismatch/kl", "mismatch/max")


def means(sums: dict[str, Tensor], tokens: int, reference: bool) -> dict[str, float]:
    """Metrics of one update from its sums: the losses are sums already, the others become means over tokens."""
    out = {"loss_pla": sums["loss_pla"].item()}
    if reference:
        out |= {"loss_sta": sums["loss_sta"].item(), "kl": sums["kl"].item() / max(tokens, 1)}
    return out | {
        "entropy": sums["entropy"].item() / max(tokens, 1),
        "clip_fraction": sums["clipped"].item() / max(tokens, 1),
        "mismatch/mean": sums["mismatch/mean"].item() / max(tokens, 1),
        "mismatch/kl": sums["mismatch/kl"].item() / max(tokens, 1),
        "mismatch/max": sums["mismatch/max"].item(),
    }


def schedule(cfg: LearnerConfig, updates: int) -> Callable[[int], float]:
    """Factor on the learning rate by optimizer steps done: linear warm-up, then constant, linear or cosine decay.

    ``updates`` are those planned; skipped ones do not count, so that decay may end a little above 0.
    """
    warm = round(cfg.warmup * updates)

    def factor(update: int) -> float:
        if update < warm:
            return (update + 1) / warm
        done = (update - warm) / max(1, updates - warm)
        if cfg.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return max(0.0, 1 - done) if cfg.schedule == "linear" else 1.0

    return factor


def scatter(values: Tensor, before: Tensor, features: Tensor) -> Tensor:
    """Put per-token values [M, d] back to their positions in [rows, T, d]; zeros elsewhere."""
    out = torch.zeros_like(features, dtype=values.dtype)
    out[:, :-1][before] = values
    return out


def entropy(logits: Tensor) -> Tensor:
    """Sum over tokens of the entropy of softmax(logits) [M, V], nats, 0-d float64."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(dtype=torch.float64)


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
