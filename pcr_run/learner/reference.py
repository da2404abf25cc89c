"""The reference policy: which one it is, when it moves, and where it waits between updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pcr_run.distributed.shards import local
from pcr_run.model.policy import freeze
from pcr_run.model.precision import store
from pcr_run.schema import LearnerConfig


@dataclass(frozen=True)
class Kind:
    """``learner.reference`` taken apart: ``every`` so many steps a share ``rate`` of the policy; 0 = never."""

    every: int
    rate: float

    @classmethod
    def of(cls, text: str) -> Kind:
        """``initial``, ``old``, ``every:N`` or ``ema:RATE``."""
        name, _, value = text.partition(":")
        match name:
            case "old":
                return cls(1, 1.0)
            case "every":
                return cls(int(value), 1.0)
            case "ema":
                return cls(1, float(value))
        return cls(0, 0.0)


class Reference:
    """A frozen copy of the policy, in the dtype that is computed in.

    ``begin(step)`` moves it before a step's update: ``old`` is the policy as it is then, ``every:N`` a copy of
    it that is renewed each N steps (reference resets, first at step N + 1; Liu et al. 2025, arXiv 2505.24864),
    ``ema:RATE`` an average: reference + RATE (policy - reference) before every step (Ramé et al. 2024, arXiv
    2406.16768).
    """

    def __init__(self, policy: PreTrainedModel, cfg: LearnerConfig) -> None:
        self.policy, self.kind, self.place = policy, Kind.of(cfg.reference), cfg.reference_device
        self.model, self.step = freeze(policy), 0
        if cfg.autocast and self.kind.rate in (0.0, 1.0):  # an average would be lost to rounding
            store(self.model, torch.bfloat16)
        nn.Module.to(self.model, self.place or policy.device)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Inside, the reference is on the policy's device."""
        if self.place is None:
            yield
            return
        nn.Module.to(self.model, self.policy.device)
        yield
        nn.Module.to(self.model, self.place)

    @torch.no_grad()
    def begin(self, step: int) -> None:
        """Before the update of ``step`` (the first is 1); what is asked twice is done once."""
        if step == self.step:
            return
        self.step = step
        if not self.kind.every or (step - 1) % self.kind.every:
            return
        if self.kind.rate == 1.0:
            self.model.load_state_dict(self.policy.state_dict())
            return
        for weight, moved in zip(self.model.parameters(), self.policy.parameters(), strict=True):  # tied ones once
            local(weight).lerp_(local(moved).to(weight.dtype), self.kind.rate)

    @property
    def kept(self) -> bool:
        """Whether a checkpoint needs its weights: neither the start of the run nor that of a step gives them back."""
        return self.kind.every > 0 and self.kind != Kind.of("old")

    def state_dict(self) -> dict[str, Any]:
        """Its weights, where they are kept."""
        return self.model.state_dict() if self.kept else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        if state:
            self.model.load_state_dict(state)
