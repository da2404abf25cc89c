"""Every key with its type, its default, its meaning and which values are right. No torch. May import nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from pcr_run.right import COUNT, at_least, between, doc, matching
from pcr_run.schema.experiment import ClaimConfig, ExperimentConfig, ThroughputConfig
from pcr_run.schema.launch import LaunchConfig
from pcr_run.schema.learner import LearnerConfig, LoraConfig, MeasureConfig, ResolverConfig, clip_range
from pcr_run.schema.questions import ModelConfig, TaskConfig
from pcr_run.schema.records import CheckpointConfig, EvaluationConfig, HarnessConfig, TrackerConfig, WandbConfig
from pcr_run.schema.reward import RewardConfig, SandboxConfig
from pcr_run.schema.rollout import RolloutConfig

__all__ = [
    "FREE",
    "CheckpointConfig",
    "ClaimConfig",
    "Config",
    "EvaluationConfig",
    "ExperimentConfig",
    "HarnessConfig",
    "LaunchConfig",
    "LearnerConfig",
    "LoraConfig",
    "MeasureConfig",
    "ModelConfig",
    "ResolverConfig",
    "RewardConfig",
    "RolloutConfig",
    "SandboxConfig",
    "TaskConfig",
    "ThroughputConfig",
    "TrackerConfig",
    "WandbConfig",
    "clip_range",
    "evaluation_steps",
    "to_dict",
]

FREE = ("resume", "dry_run", "tracker", "checkpoint", "launch", "throughput", "experiments")
"""Top-level keys that do not change what a run computes: they may differ when it goes on."""


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
    throughput: ThroughputConfig = field(default_factory=ThroughputConfig, metadata={"doc": "assumed speeds"})
    experiments: dict[str, ExperimentConfig] = doc("experiments of this sweep, by name (`-cn table1`, ...)", {})
    launch: LaunchConfig = field(default_factory=LaunchConfig, metadata={"doc": "processes"})
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata={"doc": "checkpoints"})


def to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as plain nested dicts, as it stands in a run's ``config.yaml``."""
    return OmegaConf.to_container(OmegaConf.structured(cfg))  # type: ignore[return-value]


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration as pairs of a dotted key and its value."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def evaluation_steps(cfg: Config) -> list[int]:
    """Steps done at which a run is evaluated: before the first, after the last, and every so many between."""
    if not cfg.evaluation.n:
        return []
    between = range(0, cfg.steps, cfg.evaluation.every) if cfg.evaluation.every else []
    return sorted({0, *between, cfg.steps})
