"""What a run would do, from its configuration and the files that are here: no weights, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pcr_run.configuration.check.batch import batch, measures
from pcr_run.configuration.memory import memory
from pcr_run.errors import ConfigError
from pcr_run.model import card
from pcr_run.records import result
from pcr_run.schema import Config, evaluation_steps, to_dict

TIMEOUT = 120  # seconds for the process that renders the prompt

UNCHECKED = "the data set, the model's weights, options of the resolver, and whatever needs the network"


def show(cfg: Config, directory: Path, console: Console | None = None, asks: bool = True) -> None:
    """Print the model's card, the arithmetic of a step and of the run, a prompt (``asks``), and what was not checked.

    The prompt takes seconds: transformers are loaded for it.
    """
    console = console or _console()
    about = card.read(cfg.model)
    console.print(_table("model", about.rows()))
    console.print(_table("arithmetic", [*arithmetic(cfg), *memory(cfg, about)]))
    if asks:
        prompt(cfg, console)
    console.print(f"run directory: {directory} ({_state(directory)})")
    console.print(f"The configuration is valid. Not checked: {UNCHECKED}.")


def prompt(cfg: Config, console: Console) -> None:
    """Print what the model is asked, rendered by a process of its own; ConfigError where its template fails."""
    command = [sys.executable, "-P", "-m", "pcr_run.model.prompt"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_TORCH": "0"}  # neither is needed to make a text
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # files of the user's
    configuration = OmegaConf.to_yaml(OmegaConf.create(to_dict(cfg)))
    try:
        done = subprocess.run(
            command, input=configuration, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = (str(error.stderr or "").strip().splitlines() or [str(error)])[-1]
        raise ConfigError("model", f"no prompt can be made: {reason}") from error
    found = json.loads(done.stdout.splitlines()[-1])
    if "key" in found:
        raise ConfigError(found["key"], found["problem"])
    if "missing" in found:
        console.print(f"prompt: not shown ({found['missing']})", markup=False)
        return
    which = found["item"] or "the data set is not on this machine: a placeholder"
    thought = "; it opens a thought" if found["opened"] else ""
    console.print(f"prompt ({which}; {found['tokens']} tokens{thought}):", markup=False)
    console.print(found["text"], markup=False)


def matrix(cells: Sequence[tuple[Config, Path]], console: Console | None = None) -> None:
    """Print the cells of a sweep."""
    table = Table("cell", "task", "resolver", "seed", "directory", "state", title="run matrix", title_justify="left")
    for number, (cfg, directory) in enumerate(cells, 1):
        row = (str(number), cfg.task.name, cfg.resolver.name, str(cfg.seed), directory.name, _state(directory))
        table.add_row(*row)
    (console or _console()).print(table)


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print rows of (what, how much) under a title."""
    _console().print(_table(title, rows))


def arithmetic(cfg: Config) -> list[tuple[str, str]]:
    """(what, how much), counts of one step first."""
    rollout, learner, evaluation = cfg.rollout, cfg.learner, cfg.evaluation
    P, G = rollout.prompts, rollout.group
    prompts, responses = batch(cfg)
    updates = learner.epochs * learner.minibatches
    sequence = rollout.max_prompt_tokens + rollout.max_new_tokens
    evaluations = len(evaluation_steps(cfg))
    questions = "all" if evaluation.questions is None else f"{evaluation.questions:,}"
    names = ", ".join(dict.fromkeys([cfg.task.name, *(task.name for task in evaluation.tasks.values())]))
    return [
        ("samples a step", f"{P} prompts x {G} responses = {P * G:,}"),
        (
            "sampled tokens a step",
            f"at most {P * G:,} x {rollout.max_new_tokens:,} = {P * G * rollout.max_new_tokens:,}",
        ),
        ("minibatch", f"{P} prompts / {learner.minibatches} = {prompts} prompts, {responses:,} responses"),
        *_microbatches(cfg, responses, sequence),
        ("optimizer steps a step", f"{learner.epochs} epochs x {learner.minibatches} minibatches = {updates}"),
        ("optimizer steps", f"{cfg.steps:,} steps x {updates} = {cfg.steps * updates:,}"),
        ("samples", f"{cfg.steps:,} steps x {P * G:,} = {cfg.steps * P * G:,}"),
        ("evaluations", f"{evaluations}, each {evaluation.n} samples for {questions} held-out questions of {names}"),
        ("gradient table", _rows(cfg)),
    ]


def _microbatches(cfg: Config, responses: int, sequence: int) -> list[tuple[str, str]]:
    learner = cfg.learner
    if learner.tokens:
        most = f"at most {max(learner.tokens, sequence):,} tokens of whole responses (learner.tokens)"
        return [("microbatches", f"{responses:,} responses, {most}")]
    rows = learner.microbatch
    return [
        ("microbatches", f"{responses:,} / {rows} = {responses // rows} in a minibatch"),
        ("tokens in a microbatch", f"at most {rows} x {sequence:,} = {rows * sequence:,}"),
    ]


def _rows(cfg: Config) -> str:
    if not measures(cfg):
        return "none: resolver=none needs no second gradient; measure=all takes it"
    modules = cfg.measure.modules or (
        f"matching {cfg.resolver.pattern}" if cfg.resolver.pattern else cfg.resolver.modules
    )
    granularity = cfg.measure.granularity or cfg.resolver.granularity
    space = ", in AdamW's metric" if cfg.resolver.space == "preconditioned" else ""
    return f"{modules}, by {granularity}, variance over {cfg.measure.unit} units{space}"


def _state(directory: Path) -> str:
    return str(result.read(directory).get("status", "new"))


def _table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def _console() -> Console:
    """As wide as the terminal; wide enough for a directory where there is none."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)
