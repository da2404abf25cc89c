"""An optimizer step with what is about it: clip, skip what is not finite, schedule, and what the step did."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pcr_run.distributed.shards import entire
from pcr_run.errors import RunError
from pcr_run.gradients import TwoGradients
from pcr_run.learner.layers import Products
from pcr_run.learner.rounding import Survival
from pcr_run.schema import LearnerConfig


class Updater:
    """Makes steps of ``optimizer`` with the gradients that are in ``.grad``."""

    def __init__(self, model: nn.Module, cfg: LearnerConfig, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self.model, self.cfg, self.optimizer, self.scheduler = model, cfg, optimizer, scheduler
        self.survival = Survival(model)
        self.nonfinite = 0

    def step(self, metrics: dict[str, float], two: TwoGradients | None) -> Products | None:
        """Clip, step and schedule. Returns the step's products with g_sta where ``two`` measures it.

        An update whose gradient is not finite is skipped, and the schedule does not advance: like AdamW's moments it
        counts the optimizer steps done, so no part of a warm-up is lost. ``RunError`` after too many in a row.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = entire(get_total_norm(gradients))
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
        metrics |= {"nonfinite": 0.0, "clip_factor": 1.0}
        if self.cfg.max_grad_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.cfg.max_grad_norm, norm)
            metrics["clip_factor"] = min(1.0, self.cfg.max_grad_norm / (metrics["grad_norm"] + 1e-6))
        named = dict(self.model.named_parameters())
        before = {name: named[name].detach().clone() for name in two.names} if two is not None else {}
        self.survival.before()
        self.optimizer.step()
        if (changed := self.survival.share(float(self.scheduler.get_last_lr()[0]))) is not None:
            metrics["weights_changed"] = changed
        self.scheduler.step()
        if two is None:
            return None
        steps = {name: before[name].sub_(named[name].detach()) for name in two.names}
        return Products.of(steps, two.stability(), two.metric is not None)
