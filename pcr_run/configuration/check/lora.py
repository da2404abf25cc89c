"""An adapter, and what its reference being the same model rules out."""

from __future__ import annotations

from collections.abc import Iterator

from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Keys that mean nothing without an adapter, and those that mean nothing with one."""
    learner = cfg.learner
    if learner.lora.r is None:
        if learner.lora.merge:
            yield "learner.lora.merge", "there is no adapter to merge (learner.lora.r=null); right: false, or a rank"
        return
    if not learner.lora.targets:
        yield "learner.lora.targets", "names no layer; right: [all-linear], or names like [up_proj,down_proj]"
    if learner.reference != "initial":
        yield "learner.reference", "with learner.lora it is the model without its adapter; right: initial"
    if learner.reference_device is not None:
        yield "learner.reference_device", "with learner.lora there is no second model that could wait; right: null"
