"""What ``pcr-eval`` would measure, from the configuration and the files that are here: no weights, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcr_run.eval import source
from pcr_run.model import card
from pcr_run.schema import Config, TaskConfig

UNCHECKED = "the data sets, the model's weights, and whatever needs the network"


def show(cfg: Config, directory: Path, console: Console | None = None) -> None:
    """Print the model's card, each benchmark with its protocol and whether a result is there, and the directory."""
    console = console or Console(highlight=False, soft_wrap=True, width=160)
    found = source.find(cfg.model)
    rows = [*card.read(found.model).rows(), ("step", str(found.step))]
    if found.checkpoint is not None:
        rows.append(("weights", str(found.checkpoint)))
    about = Table(title="model", title_justify="left", show_header=False)
    for row in rows:
        about.add_row(*row)
    console.print(about)
    table = Table("benchmark", "questions", "protocol", "state", title="what is measured", title_justify="left")
    for name, what, how in benchmarks(cfg):
        there = (directory / "evaluations" / f"{name}.json").exists()
        table.add_row(name, what, how, "there" if there else "to measure")
    console.print(table)
    console.print(f"directory: {directory}")
    console.print(f"The configuration is valid. Not checked: {UNCHECKED}.")


def cells(models: Sequence[tuple[Config, Path]]) -> None:
    """Print what would be measured of the first of several models, and all of them."""
    show(*models[0])
    table = Table("model", "directory", title="models", title_justify="left")
    for cfg, directory in models:
        table.add_row(str(cfg.model.path or cfg.model.builtin), str(directory))
    Console(highlight=False, soft_wrap=True, width=160).print(table)


def benchmarks(cfg: Config) -> list[tuple[str, str, str]]:
    """(name, questions, protocol) of each."""
    evaluation = cfg.evaluation
    first = "all" if evaluation.questions is None else f"first {evaluation.questions:,}"
    tokens = evaluation.max_new_tokens or cfg.rollout.max_new_tokens
    sampling = f"temperature {evaluation.temperature:g}, top-p {evaluation.top_p:g}, at most {tokens:,} tokens"
    found = [
        (each.name, f"{first} of {_source(each)}", f"{each.n or evaluation.n} samples each, {sampling}")
        for each in evaluation.tasks.values()
    ]
    if evaluation.text:
        text = evaluation.text
        found.append(("perplexity", str(text.get("path") or text.get("source")), "per token, whole documents"))
    harness = evaluation.harness
    shots = "as the task says" if harness.num_fewshot is None else f"{harness.num_fewshot} shots"
    limit = "all" if harness.limit is None else f"first {harness.limit:,}"
    return found + [(f"lm-eval-{name}", f"{limit} of lm-eval's {name}", shots) for name in harness.tasks]


def _source(task: TaskConfig) -> str:
    test: Any = task.data.get("test")
    tables = [each["path"] for each in (test if isinstance(test, list) else [test]) if isinstance(each, dict)]
    return ", ".join(tables) or str(task.data.get("source"))
