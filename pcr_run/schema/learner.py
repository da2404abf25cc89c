"""The conflict rule, what is measured, objective and optimizer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pcr_run.right import ABOVE_0_TO_1, ABOVE_1, COUNT, MOMENTS, POSITIVE, SHARE, Right, at_least, between, doc

MODULES = ("mlp", "attention", "all")
GRANULARITIES = ("layer", "tensor", "global")
KL_PLACES = ("loss", "reward")


def reference_holds(text: str) -> bool:
    """Whether ``learner.reference`` is one of its kinds, with a number that can be."""
    if found := re.fullmatch(r"ema:(\d*\.?\d+(?:e-?\d+)?)", text):
        return 0 < float(found[1]) <= 1
    return re.fullmatch(r"initial|old|every:0*[1-9]\d*", text) is not None


@dataclass
class ResolverConfig:
    """How the two gradients become one (`resolver=none|pcr|pcr_literal|fixed|pcgrad|mgs|...`)."""

    name: str = doc("a rule of `pcr_run.resolver` or `module:Class`", right="pcr_run.resolver.make:RULES")
    modules: str = doc("parameters acted on", "mlp", MODULES)
    pattern: str | None = doc("regular expression on parameter names, instead of `modules`", None)
    granularity: str = doc("one decision per `layer`, per `tensor` or one `global`", "layer", GRANULARITIES)
    space: str = doc(
        "products of gradients as they are (`gradient`) or in the metric of AdamW's second moments (`preconditioned`)",
        "gradient",
        "pcr_run.learner.metric:SPACES",
    )
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
    weight_decay: float = doc("decoupled weight decay", 0.01, at_least(0))
    betas: list[float] = doc("AdamW moments", [0.9, 0.999], MOMENTS)
    optimizer: str = doc(
        "`adamw`, `adamw8bit` (its moments in 8 bits) or `sgd` (without momentum)",
        "adamw",
        "pcr_run.learner.optimizer:OPTIMIZERS",
    )
    schedule: str = doc("`constant`, `linear` or `cosine` decay to 0", "constant", "pcr_run.learner.schedule:SCHEDULES")
    warmup: float = doc("share of the optimizer steps with a linear warm-up", 0.0, SHARE)
    max_grad_norm: float | None = doc("clip the resolved gradient to this norm; null = off", 1.0, POSITIVE)
    beta: float = doc("weight of the KL term", 0.04, at_least(0))
    kl: str = doc(
        "KL estimator; `k3_corrected` times the ratio (unbiased off policy), `exact` over the whole vocabulary, "
        "`variance` of a group's log-ratios (GVPO; needs `aggregation=sequence_sum`)",
        "k3",
        "pcr_run.learner.objective:KL",
    )
    kl_in: str = doc("KL term in the `loss`, or taken from the `reward` (no stability gradient)", "loss", KL_PLACES)
    reference: str = doc(
        "reference policy: `initial`, `old` (the policy at the start of the step), `every:N` (renewed each N steps) or "
        "`ema:RATE` (moves by this share of the way to the policy before each step)",
        "initial",
        Right(reference_holds, "initial, old, every:N (N of at least 1) or ema:RATE (above 0, at most 1)"),
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
        "over tokens: `sequence_mean` (Eq. 1), `token_mean`, `constant` (over max_new_tokens) or `sequence_sum`",
        "sequence_mean",
        "pcr_run.learner.objective:AGGREGATIONS",
    )
    surrogate: str = doc(
        "what a token gains: `clip` (PPO), `gspo` (one ratio a response), `cispo` (clipped constant weight) or "
        "`reinforce` (no ratio; `learner=gvpo`)",
        "clip",
        "pcr_run.learner.surrogate:SURROGATES",
    )
    clip_low: float | None = doc(
        "ratio clipped below 1 - clip_low; null = the surrogate's own: 0.2, `gspo` 0.0003, `cispo` 1 (never)",
        None,
        ABOVE_0_TO_1,
    )
    clip_high: float | None = doc(
        "ratio clipped above 1 + clip_high; null = the surrogate's own: 0.2, `gspo` 0.0004, `cispo` 4", None, POSITIVE
    )
    dual_clip: float | None = doc(
        "`clip`, `gspo`: where the advantage is negative, the ratio counts at most this often; null = off",
        None,
        ABOVE_1,
    )
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


BLOCK, SMALL = 256, 4096
STATES: dict[str, tuple[Callable[[int, int], float], str]] = {
    "adamw": (lambda own, _: 2 * own, "two moments"),
    "adamw8bit": (
        lambda own, entries: 2 * own if entries < SMALL or entries % BLOCK else 2 * (1 + 4 / BLOCK),
        f"two moments of 8 bits, a float32 scale for each {BLOCK}",
    ),
    "sgd": (lambda own, _: 0, "nothing"),
}
"""Bytes that an optimizer keeps of a trained weight, by the weight's own and the entries of its tensor; and of what.
torchao leaves the moments of small tensors, and of those that are no whole blocks, as they are."""
CLIP_RANGES = {"clip": (0.2, 0.2), "gspo": (3e-4, 4e-4), "cispo": (1.0, 4.0), "reinforce": (1.0, math.inf)}
"""Each surrogate's own (clip_low, clip_high): PPO's; that of the GSPO paper, section 5.1; CISPO has no lower bound, and
5 as its upper one (the recommendation of TRL, after Khatri et al. 2025); none."""


def clip_range(cfg: LearnerConfig) -> tuple[float, float]:
    """(clip_low, clip_high) as set, or as the surrogate has them."""
    low, high = CLIP_RANGES[cfg.surrogate]
    return low if cfg.clip_low is None else cfg.clip_low, high if cfg.clip_high is None else cfg.clip_high
