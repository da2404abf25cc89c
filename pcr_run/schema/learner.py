"""The conflict rule, what is measured, objective and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pcr_run.right import ABOVE_0_TO_1, COUNT, MOMENTS, POSITIVE, SHARE, Right, at_least, between, doc

MODULES = ("mlp", "attention", "all")
GRANULARITIES = ("layer", "tensor", "global")


@dataclass
class ResolverConfig:
    """How the two gradients become one (`resolver=pcr|pcr_literal|pcgrad|fixed|none|torchjd`)."""

    name: str = doc("a rule of `pcr_run.resolver` or `module:Class`", right="pcr_run.resolver.make:RULES")
    modules: str = doc("parameters acted on", "mlp", MODULES)
    pattern: str | None = doc("regular expression on parameter names, instead of `modules`", None)
    granularity: str = doc("one decision per `layer`, per `tensor` or one `global`", "layer", GRANULARITIES)
    alpha: float = doc("`fixed`: the projection strength, 0 to 1", 0.5, SHARE)
    alpha_scale: str = doc(
        "`pcr`: variances compared `raw`, with `beta` squared, or `relative` to squared norms",
        "raw",
        ("raw", "beta", "relative"),
    )
    weighting: str = doc("`torchjd`: name of a weighting", "upgrad")
    options: dict[str, Any] = doc("further arguments of the rule", {})


@dataclass
class MeasureConfig:
    """Which parameter groups get a row in layers.jsonl, whatever the resolver (`measure=default|all`)."""

    modules: str | None = doc("`mlp`, `attention`, `all`; null = those that the resolver acts on", None, MODULES)
    granularity: str | None = doc("`layer`, `tensor`, `global`; null = the resolver's", None, GRANULARITIES)
    unit: str = doc(
        "unit of the variance estimate",
        "response",
        ("response", "query", "microbatch"),
    )
    every: int = doc("steps between two measurements of what the resolver does not need", 1, COUNT)


@dataclass
class LoraConfig:
    """Small trained matrices beside frozen layers (LoRA), instead of training all weights; extra `pcr-run[lora]`."""

    r: int | None = doc("rank of the matrices; null = no adapter, all weights are trained", None, COUNT)
    alpha: float = doc("their product is multiplied by alpha / r", 32.0, POSITIVE)
    targets: list[str] = doc("names of layers, like [up_proj,down_proj]; all-linear = all but the head", ["all-linear"])
    merge: bool = doc("write `final/merged/` too: a whole model with the adapter's change in its weights", False)


@dataclass
class LearnerConfig:
    """Objective and optimizer (`learner=default`)."""

    lr: float = doc("learning rate", 1e-4, between(0, 1))
    optimizer: str = doc("`adamw`, or `adamw8bit`: moments in 8 bits", "adamw", "pcr_run.learner.optimizer:OPTIMIZERS")
    weight_decay: float = doc("decoupled weight decay", 0.01, at_least(0))
    betas: list[float] = doc("AdamW moments", [0.9, 0.999], MOMENTS)
    schedule: str = doc("`constant`, `linear` or `cosine` decay to 0", "constant", "pcr_run.learner.schedule:SCHEDULES")
    warmup: float = doc("share of the optimizer steps with a linear warm-up", 0.0, SHARE)
    max_grad_norm: float | None = doc("clip the resolved gradient to this norm; null = off", 1.0, POSITIVE)
    beta: float = doc("weight of the KL term", 0.04, at_least(0))
    kl: str = doc("KL estimator; `exact` sums over the whole vocabulary", "k3", "pcr_run.learner.objective:KL")
    reference: str = doc(
        "reference policy: `initial` or `old` (the policy that sampled)", "initial", ("initial", "old")
    )
    reference_device: str | None = doc(
        "where the reference waits between updates; null = with the policy", None, ("cpu",)
    )
    advantage: str = doc(
        "`standard` (centred, divided by the group's std) or `dr_grpo` (centred)",
        "standard",
        "pcr_run.learner.objective:ADVANTAGES",
    )
    aggregation: str = doc(
        "`sequence_mean` (Eq. 1), `token_mean` or `constant` (over max_new_tokens)",
        "sequence_mean",
        "pcr_run.learner.objective:AGGREGATIONS",
    )
    clip_low: float = doc("ratio clipped below 1 - clip_low", 0.2, ABOVE_0_TO_1)
    clip_high: float = doc("ratio clipped above 1 + clip_high", 0.2, POSITIVE)
    zero_advantage: str = doc("groups with equal rewards: `keep` or `skip` their KL", "keep", ("keep", "skip"))
    mask_truncated: bool = doc("leave responses that were cut out of both losses", False)
    epochs: int = doc("passes over a batch", 1, COUNT)
    minibatches: int = doc("optimizer steps per pass, each on whole groups", 1, COUNT)
    microbatch: int = doc(
        "responses per forward pass; divides the minibatch, and the group or a multiple of it", 32, COUNT
    )
    tokens: int | None = doc(
        "instead of `microbatch`: most tokens of prompts and responses per forward pass, whole responses", None, COUNT
    )
    engine: str = doc(
        "how two gradients go down: `twin` (together, layer by layer), `portable` (one after the other); "
        "`auto`: twin where the model can be cut at its layers",
        "auto",
        ("auto", "portable", "twin"),
    )
    compile: bool | str = doc(
        "compile the policy's and the reference's layers for updates, so that element-wise kernels are fused; "
        "`auto`: on CUDA. Where that fails they run as they stand, and the log says why",
        "auto",
        Right(lambda value: value in ("auto", True, False), "auto, true or false"),
    )
    gradient_checkpointing: bool = doc("recompute activations", False)
    autocast: bool = doc("bfloat16 matrix products with the weights' dtype kept", False)
    max_nonfinite: int = doc("stop after this many updates with a non-finite gradient in a row", 3, COUNT)
    lora: LoraConfig = field(default_factory=LoraConfig, metadata={"doc": "low-rank adapter"})
