"""The policy learner: gradients of a batch, resolved, clipped, and an AdamW step with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pcr_run.distributed.ranks import together, total
from pcr_run.distributed.shards import Shards
from pcr_run.distributed.whole import Weights, Whole
from pcr_run.errors import ConfigError
from pcr_run.gradients import Cotangents, Metric, TwoGradients, cuttable, outermost, select, tappable
from pcr_run.learner import objective, share, trial
from pcr_run.learner.batch import Batch, Microbatch, Minibatch, Rows, cut, deal
from pcr_run.learner.compile import compiled
from pcr_run.learner.head import Head, Sums
from pcr_run.learner.layers import layer_rows, summary
from pcr_run.learner.metric import SPACES
from pcr_run.learner.optimizer import OPTIMIZERS
from pcr_run.learner.reference import Reference
from pcr_run.learner.schedule import schedule
from pcr_run.learner.updater import Updater
from pcr_run.model import lora, packing
from pcr_run.model.packing import Tokens
from pcr_run.model.policy import Policy, disable_dropout, sampled_logprobs, split
from pcr_run.model.precision import cast_once
from pcr_run.ragged import sent
from pcr_run.resolver import from_config
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig


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
        offload: bool = False,
    ) -> None:
        self.penalty = learner
        if learner.kl_in == "reward":
            learner = dataclasses.replace(learner, beta=0.0)  # in the loss
        self.model, self.cfg, self.measure, self.rollout = model, learner, measure, rollout
        self.temperature, self.max_new_tokens = rollout.temperature, rollout.max_new_tokens
        self.device, self.offload = model.device, offload
        self.resolver, self.granularity = from_config(resolver), resolver.granularity
        self.space = SPACES[resolver.space]
        self.acting = select(model, resolver.modules, resolver.pattern) if self.resolver.needs_table else []
        self.measured = select(model, measure.modules) if measure.modules else self.acting
        self.tracked = list(dict.fromkeys([*self.acting, *self.measured]))
        disable_dropout(model)
        model.eval()
        packing.enable(model)
        output = model.get_output_embeddings()
        head = {id(p) for p in output.parameters()} if output is not None else set()
        whole = any(id(p) in head for name, p in model.named_parameters() if name in set(self.tracked))
        self.policy = split(model, whole)
        self.layers = self._layers()
        if learner.gradient_checkpointing and not self.layers:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()  # transformers checkpoints in training mode only; dropout is off all the same
        self.tapped = tappable(model, self.tracked)
        self.refers, adapter = learner.beta > 0 or bool(self.tracked), lora.attached(model)
        compared = self.refers or self.penalty.beta > 0
        self.frozen = Reference(model, learner) if compared and not adapter else None
        self.reference = self.frozen.model if self.frozen is not None else None
        with self._reference_here(), self.autocast():
            self.reference_policy = split(self.reference, whole) if self.reference is not None else None
        if compared and adapter:
            self.reference_policy = self.policy  # with the adapter switched off
        self.weights = self._placed(model)
        self.reference_weights = None if self.reference is None else self._placed(self.reference)
        self.compiled = self._compiled()
        self.head = Head(self.policy, self.reference_policy, learner, self.temperature)
        self.optimizer = OPTIMIZERS[learner.optimizer]([p for p in model.parameters() if p.requires_grad], learner)
        updates = steps * learner.epochs * learner.minibatches
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule(learner, updates))
        self.updater = Updater(model, learner, self.optimizer, self.scheduler)

    def _placed(self, model: PreTrainedModel) -> Weights:
        """In shards where this process belongs to a group, else as it is."""
        dtype = torch.bfloat16 if self.cfg.autocast else None  # of the reference too: both round their norms alike
        return Shards(model, outermost(model), dtype, self.offload) if together() else Whole(model)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every rank has all weights of the policy, in the precision that they are gathered in."""
        with self.weights.whole(), self.autocast():
            yield

    @contextmanager
    def _reference_here(self) -> Iterator[None]:
        """Inside, the reference is on the learner's device."""
        with nullcontext() if self.frozen is None else self.frozen.here():
            yield

    @contextmanager
    def _compared(self, step: int) -> Iterator[None]:
        """Inside, the reference is that of ``step``; in shards, what belongs to none of its layers is whole."""
        with self._reference_here():
            if self.frozen is not None:
                self.frozen.begin(step)
            with nullcontext() if self.reference_weights is None else self.reference_weights.rest():
                yield

    def _layers(self) -> list[nn.Module]:
        """The layers at which gradients are cut; none where they go down in one piece."""
        if self.cfg.engine == "portable" or not (self.tracked or self.cfg.gradient_checkpointing):
            return []
        layers = cuttable(self.model, lambda ids: self.policy.features(input_ids=ids))
        if not layers and self.cfg.engine == "twin":
            problem = f"twin cannot cut {type(self.model).__name__} at its layers; right: auto"
            raise ConfigError("learner.engine", problem)
        return layers

    def _compiled(self) -> AbstractContextManager[object]:
        """A context in which the layers of policy and reference are compiled, where that is wanted and works.

        Layers in shards run as they stand: they are gathered in hooks, which a graph would have to hold.
        """
        wanted = self.cfg.compile is True or (self.cfg.compile == "auto" and self.device.type == "cuda")
        if self.weights.spread or not wanted:
            return nullcontext()
        layers = [*outermost(self.model), *(outermost(self.reference) if self.reference is not None else ())]
        make = partial(self._two, self.tracked, unit="response")
        return compiled(layers, lambda: trial.gradients(self.model, self.policy, lambda n: make(n, n), self.autocast))

    def update(self, batch: Batch, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """All optimizer steps on one batch. Returns metrics (means over the steps) and rows for layers.jsonl.

        Where ranks share the model, each has the whole batch and returns the same.
        """
        with self._compared(step), self.compiled:
            return self._update(batch, step)

    def _update(self, batch: Batch, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        cfg, r, lengths = self.cfg, self.rollout, batch.lengths
        inner, correct = cfg.epochs * cfg.minibatches, r.old_logprobs == "engine"
        old = self._old_logprobs(batch, lengths) if inner > 1 or correct else None
        importance, truncated = torch.ones_like(batch.drawn), {}
        if old is not None and correct:
            importance, share = objective.importance(
                old - batch.drawn, batch.mask, r.importance, r.importance_cap, r.importance_floor, r.importance_mode
            )
            truncated = {"mismatch/truncated": share}
        size = len(batch.ids) // cfg.minibatches
        metrics: list[dict[str, float]] = []
        rows: list[dict[str, Any]] = []
        for index in range(inner):
            part = slice(start := index % cfg.minibatches * size, start + size)
            minibatch = Minibatch.of(batch, part, lengths[part], importance, old, cfg, self.max_new_tokens)
            if cfg.kl == "variance" and self.refers:
                excess = objective.excess(-self._apart(minibatch, minibatch.lengths), minibatch.group)
                minibatch = dataclasses.replace(minibatch, excess=excess)
            new_metrics, new_rows = self._step(minibatch, step, index)
            metrics.append(new_metrics)
            rows += new_rows
        keys = dict.fromkeys(key for m in metrics for key in m)
        return {key: fmean(m[key] for m in metrics if key in m) for key in keys} | truncated, rows

    def divergence(self, batch: Batch, step: int) -> Float[Tensor, " rows"]:
        """What ``learner.kl_in=reward`` takes from each reward, but for beta: the sum of a response's KL estimates."""
        with self._compared(step):
            return objective.taken(self._apart(batch, batch.lengths), batch.mask, self.penalty.kl)

    def _apart(self, batch: Batch | Minibatch, lengths: list[int]) -> Float[Tensor, "rows length"]:
        """Log-probs of the sampled tokens under the reference minus those under the policy as it is; 0 elsewhere."""
        assert self.reference_policy is not None
        now = self._old_logprobs(batch, lengths)
        with lora.switched_off(self.model):
            return self._old_logprobs(batch, lengths, self.reference_policy) - now

    def _old_logprobs(
        self, batch: Batch | Minibatch, lengths: list[int], policy: Policy | None = None
    ) -> Float[Tensor, "rows length"]:
        """Log-probs of the sampled tokens under the policy that begins the step, or another; 0 elsewhere."""
        old = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
        with self.autocast(), self.weights.rest():
            for part in self._dealt(lengths, [True] * len(lengths), batch.group, len(lengths)):
                tokens, mask = cut(batch, part.rows, lengths)
                new = sampled_logprobs(policy or self.policy, tokens, mask.nonzero().flatten(), self.temperature)
                old, order = old.to(new.dtype), sent(torch.tensor(part.rows, dtype=torch.long), old.device)
                values = old[order]
                values[batch.mask[order]] = new
                old[order] = values
        return total(old)  # every row is one rank's, 0 on the others

    def _dealt(
        self, lengths: list[int], informative: list[bool], block: int, most: int, summed: bool = False
    ) -> list[Microbatch]:
        """This rank's microbatches, at most ``most`` rows each; a ``block`` in one where it fits."""
        dealt = partial(deal, rows=self.cfg.microbatch, tokens=self.cfg.tokens, most=most, packed=self.policy.packed)
        return share.own(lengths, informative, block, dealt, summed)

    def _step(self, minibatch: Minibatch, step: int, index: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """One optimizer step: gradients, resolver, clip, AdamW."""
        beta = self.cfg.beta
        measuring = bool(self.measured) and step % self.measure.every == 0
        names = self.tracked if measuring else self.acting
        sums = Sums(minibatch.ids.device)
        self.optimizer.zero_grad(set_to_none=True)
        metric = self.space(self.optimizer, self.weights.parameters) if names else None
        two = self._two(names, len(minibatch.ids), minibatch.group, self.measure.unit, metric)
        cast = nullcontext() if self.weights.spread else cast_once(self.model)  # shards are gathered as they should be
        with self.autocast(), two, cast:
            block = two.unit.part if self.measure.unit == "microbatch" and names else minibatch.group
            lengths, informative, most = minibatch.lengths, minibatch.informative, two.max_microbatch
            for part in self._dealt(lengths, informative, block, most, bool(names)):
                rows = minibatch[part]
                two.add(
                    partial(self._features, rows.tokens),
                    partial(self._cotangents, rows=rows, sums=sums, two=bool(names)),
                    beta,
                    self.policy.seen(rows.tokens.rows).only(range(len(part.rows))),
                    part.ends,
                )
        resolution = two.resolve(self.resolver, beta, self.granularity, set(self.acting)) if names else None
        metrics = {"lr": float(self.scheduler.get_last_lr()[0])}
        metrics |= sums.means(int(minibatch.mask.sum()), self.refers)
        products = self.updater.step(metrics, two if measuring else None)
        if resolution is None:
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

    def _two(self, names: list[str], rows: int, group: int, unit: str, metric: Metric | None = None) -> TwoGradients:
        return TwoGradients(
            self.model,
            names,
            rows=rows,
            group=group,
            unit=unit,
            microbatch=self.cfg.microbatch,
            tapped={path: m for path, m in self.tapped.items() if f"{path}.weight" in set(names)},
            layers=self.layers,
            recompute=self.cfg.gradient_checkpointing,
            context=self.autocast,
            weights=self.weights,
            metric=metric,
        )

    def _features(self, tokens: Tokens) -> Float[Tensor, "tokens width"]:
        with self.autocast():
            return self.policy.hidden(tokens)

    def _cotangents(self, hidden: Float[Tensor, "tokens width"], rows: Rows, sums: Sums, two: bool) -> Cotangents:
        with self.autocast(), torch.no_grad():
            with lora.switched_off(self.model):
                reference = self.reference_policy if self.refers else None
                referred = None if reference is None else reference.hidden(rows.tokens)
            return self.head(hidden, referred, rows, sums, two)

    def autocast(self) -> torch.autocast:
        """A context in the precision of the learner's products."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.autocast)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that the next update depends on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "resolver": self.resolver.state_dict() if hasattr(self.resolver, "state_dict") else {},
            "nonfinite": self.updater.nonfinite,
            "reference": self.frozen.state_dict() if self.frozen is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``; the optimizer's part may have come another way."""
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate  # of an optimizer without state nothing has come
        if hasattr(self.resolver, "load_state_dict"):
            self.resolver.load_state_dict(state["resolver"])
        self.updater.nonfinite = state["nonfinite"]
        if self.frozen is not None:
            self.frozen.load_state_dict(state.get("reference", {}))
