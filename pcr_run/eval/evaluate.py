"""One model measured by all benchmarks of a configuration; each result is on disk as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from pcr_run import model, reward, task
from pcr_run.data import RolloutWorker, Task
from pcr_run.distributed.whole import Whole
from pcr_run.eval import source, table
from pcr_run.evaluation import Cache, Evaluator, Piece, record
from pcr_run.records import result
from pcr_run.records.jsonl import finite
from pcr_run.rollout import make_worker
from pcr_run.run import environment
from pcr_run.run.measuring import Found, evaluation_line, measured, subject
from pcr_run.run.parts import Rewards, make_evaluator, make_harness
from pcr_run.schema import Config


def evaluate(cfg: Config, directory: Path) -> dict[str, Any]:
    """Measure what is not there yet and show all of it; returns what stands in result.json.

    ``evaluations/NAME.json`` holds one result, ``evaluations.jsonl`` all of them in one line, as a run writes it.
    """
    found = source.find(cfg.model)
    cfg = replace(cfg, model=found.model)
    device = environment.pick_device(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    transformers.utils.logging.disable_progress_bar()
    head = {"model": _name(directory, cfg), "step": found.step, "seed": cfg.seed}
    result.write(directory, {**head, "status": "running", "reason": None})
    environment.write(directory / "env.json", device)
    with ExitStack() as stack:
        say("loading the questions")
        tasks, harness = make_tasks(cfg), make_harness(cfg)
        model.locate(cfg.model)
        say("loading the model")
        policy, tokenizer = model.load(cfg.model, str(device))
        found.restore(policy)
        chat = model.chat(cfg.model, tokenizer)
        evaluator = make_evaluator(cfg, chat, tasks, Rewards(cfg, chat, device, stack), harness)
        pieces = evaluator.pieces(policy, chat.decode)
        cache = Cache(subject(cfg, policy, chat))

        def worker() -> RolloutWorker:
            prompt = evaluator.tasks[0].prompts[0]
            made = make_worker(fitted(cfg, evaluator), Whole(policy), tokenizer, prompt, directory, say)
            stack.callback(made.close)
            return made

        results = Results(directory, cache)
        there = list(results.there(pieces))
        done = {id(each.piece) for each in there}
        left = [piece for piece in pieces if id(piece) not in done]
        say(f"{len(there)} of {len(pieces)} results are there" if there else f"measuring {len(pieces)} benchmarks")
        for each in measured(left, worker, found.step, cache if cfg.evaluation.cache else None):
            results.write(each)
            there.append(each)
            how = "measured before" if each.cached else f"{each.seconds:.1f} s"
            say(f"{each.piece.label}: done ({how}), {len(there)} of {len(pieces)}")
        line = evaluation_line(found.step, pieces, there)
        result.replace(directory / "evaluations.jsonl", json.dumps(finite(line), allow_nan=False) + "\n")
        outcome = {
            **head,
            "status": "complete",
            "reason": None,
            "weights": cache.subject["weights"],
            "seconds": {"evaluation": line["time/evaluation"]},
        }
    result.write(directory, outcome)
    table.show([directory], directory)
    return outcome


class Results:
    """``evaluations/``: one file a benchmark, in the fields of evaluations.jsonl, with the key of what was measured."""

    def __init__(self, directory: Path, cache: Cache) -> None:
        self.directory, self.cache = directory / "evaluations", cache
        self.directory.mkdir(exist_ok=True)

    def there(self, pieces: Sequence[Piece]) -> Iterator[Found]:
        """Results on disk that were measured from the same weights by the same protocol."""
        for piece in pieces:
            try:
                entry = json.loads(self._path(piece).read_text(encoding="utf-8"))
                if entry["key"] == self.cache.key(piece):
                    value = entry[piece.section][piece.names[0]] if piece.names else entry[piece.section]
                    yield Found(piece, value, entry["time/evaluation"], bool(entry.get("perf/cached")))
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue

    def write(self, found: Found) -> None:
        """Write a result whole or not at all."""
        cached = {"perf/cached": [found.piece.label]} if found.cached else {}
        key, seconds = self.cache.key(found.piece), found.seconds
        entry = {"key": key, **record([(found.piece, found.value)]), "time/evaluation": seconds, **cached}
        result.replace(self._path(found.piece), json.dumps(finite(entry), indent=2, allow_nan=False) + "\n")

    def _path(self, piece: Piece) -> Path:
        return self.directory / f"{piece.label if piece.section != 'harness' else f'lm-eval-{piece.label}'}.json"


def make_tasks(cfg: Config) -> dict[str, Task]:
    """The held-out questions of every configured task, with answers that can be judged."""
    tasks = {}
    for name, each in cfg.evaluation.tasks.items():
        key = f"evaluation.tasks.{name}"
        made = replace(task.load(each, cfg.seed, key), train=())
        tasks[each.name] = reward.gradable(made, f"{key}.data")
    return tasks


def fitted(cfg: Config, evaluator: Evaluator) -> Config:
    """The configuration with room for the longest prompt and answer that are measured, and no more."""
    prompt = max(len(prompt) for questions in evaluator.tasks for prompt in questions.prompts)
    answer = evaluator.sampling.max_new_tokens
    return replace(cfg, rollout=replace(cfg.rollout, max_prompt_tokens=prompt, max_new_tokens=answer))


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def _name(directory: Path, cfg: Config) -> str:
    """The model as the command line names it."""
    given = result.read_config(directory).get("model") or {}
    return str(given.get("path") or given.get("builtin") or cfg.model.path)
