"""What is measured beside training, and what is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pcr_run.right import ABOVE_0_TO_1, COUNT, at_least, doc
from pcr_run.schema.questions import TaskConfig


@dataclass
class HarnessConfig:
    """Tasks of lm-evaluation-harness, on the model in memory."""

    tasks: list[str] = doc("its names of tasks or groups, e.g. `[wikitext,mmlu]`; needs `pcr-run[lm-eval]`", [])
    num_fewshot: int | None = doc("solved examples before each question; null = as the task says", None, at_least(0))
    limit: int | None = doc("the first so many questions of each task; null = all", None, COUNT)
    batch_size: int = doc("rows of one forward pass", 8, COUNT)
    max_length: int | None = doc("longest row, tokens; null = as the model says", None, COUNT)
    apply_chat_template: bool = doc("ask through the chat template", False)
    include_path: str | None = doc("directory with further tasks, YAML files of lm-eval", None)


@dataclass
class EvaluationConfig:
    """Pass@1 and retention, before, during and after (`evaluation=default|paper|none`)."""

    every: int = doc("steps between evaluations; 0 = only before and after", 0, at_least(0))
    n: int = doc("samples per question; 0 = no evaluation", 4, at_least(0))
    temperature: float = doc("sampling temperature; 0 = greedy", 1.0, at_least(0))
    top_p: float = doc("nucleus sampling", 1.0, ABOVE_0_TO_1)
    max_new_tokens: int | None = doc("longest response; null = rollout.max_new_tokens", None, COUNT)
    questions: int | None = doc("use the first so many held-out questions; null = all", None, COUNT)
    tasks: dict[str, TaskConfig] = doc("tasks measured beside the trained one (retention)", {})
    text: dict[str, Any] = doc("held-out text for perplexity: `source` and its options; empty = none", {})
    harness: HarnessConfig = field(default_factory=HarnessConfig, metadata={"doc": "tasks of lm-eval"})
    cache: bool = doc(
        "measure the same weights once: before training, and in `pcr-eval`, look for earlier results", True
    )


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
    report: bool = doc("make `curves.png` and `report/` at the end of a run; a sweep makes one of all its runs", True)
    transcripts: int = doc("responses written to rollouts.jsonl each step", 2, at_least(0))


@dataclass
class CheckpointConfig:
    """Checkpoints."""

    every: int = doc("steps between checkpoints; 0 = only at the end or when interrupted", 20, at_least(0))
    keep: int = doc("how many are kept", 2, COUNT)
