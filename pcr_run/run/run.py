"""One run: assembles its parts from the configuration and owns the run directory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
import transformers

from pcr_run import model
from pcr_run.distributed.group import joined
from pcr_run.distributed.ranks import everyones, first, together
from pcr_run.errors import Interrupted
from pcr_run.evaluation import Cache, difference
from pcr_run.learner.optimizer import make_loadable
from pcr_run.records import result
from pcr_run.records.jsonl import Records, read, truncate
from pcr_run.rollout import check_place
from pcr_run.run import checkpoint, environment, state
from pcr_run.run.ahead import Ahead
from pcr_run.run.dealt import on_all
from pcr_run.run.interrupt import agree, deferred, noted
from pcr_run.run.loop import learn
from pcr_run.run.measuring import evaluation_line, measured, subject
from pcr_run.run.parts import Parts, assemble
from pcr_run.run.saving import check_room, rehearse, save_final
from pcr_run.schema import Config, evaluation_steps
from pcr_run.seeds import derive
from pcr_run.tracker import Trackers, opened
from pcr_run.tracker.summary import show

log = logging.getLogger(__name__)
FILES = ("metrics", "layers", "rollouts", "evaluations")


def run(cfg: Config, directory: Path) -> dict[str, Any]:
    """Train, evaluate and write everything; goes on from the newest checkpoint. Returns what stands in result.json."""
    before = result.read(directory)
    if before.get("status") == "complete":
        show(before, directory)
        return before
    with joined(cfg.device, cfg.launch.timeout), noted(), place(directory) as own:
        return _run(cfg, directory, own, before)


@contextmanager
def place(directory: Path) -> Iterator[Path]:
    """Where this process writes records: the run's directory, or one that is thrown away where another rank writes."""
    if first():
        yield directory
        return
    with TemporaryDirectory(prefix="pcr-run-") as scratch:
        yield Path(scratch)


def _run(cfg: Config, directory: Path, own: Path, before: dict[str, Any]) -> dict[str, Any]:
    device = environment.pick_device(cfg)
    check_place(cfg.rollout, device.type)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.manual_seed(derive(cfg.seed, "global"))
    transformers.utils.logging.disable_progress_bar()
    make_loadable(cfg.learner.optimizer)
    saved = everyones(checkpoint.newest(directory / "checkpoints") if first() else None)[0]
    start = 0 if saved is None else int(saved.name.removeprefix("step-"))
    for name in FILES:
        truncate(own / f"{name}.jsonl", start if saved is not None else -1)
    model.locate(cfg.model)  # a built-in model is made here, with a display of its own
    with ExitStack() as stack:
        environment.write(own / "env.json", device)
        trackers = stack.enter_context(opened(cfg, own, start)) if first() else Trackers([])
        files = {name: stack.enter_context(Records(own / f"{name}.jsonl")) for name in FILES}
        parts = assemble(cfg, device, directory, stack, trackers.status)
        resumed = [*before.get("resumed_from", []), start] if saved is not None else []
        who = head(cfg) | {"overlap": {name: asdict(found) for name, found in parts.overlap.items()}}
        result.write(own, {**who, "status": "running", "reason": None, "resumed_from": resumed})
        ahead = stack.enter_context(Ahead(cfg, parts.questions, parts.worker, parts.reward, parts.chat.decode))
        if saved is not None:
            ahead.load_state_dict(state.restore(parts.learner, saved))
        merge = cfg.learner.lora.merge
        final = (own, parts.learner.model, parts.chat.tokenizer, parts.settings, merge)
        if first():
            rehearse(*final)
            check_room(cfg, directory, parts.learner.model, start)
        train(cfg, directory, parts, ahead, files, trackers, start)
        weights = state.whole_weights(parts.learner.model, frozen=merge or cfg.learner.lora.r is None)
        if not first():
            return {}
        save_final(*final, **weights)
    outcome = {**who, "status": "complete", "reason": None, **conclude(cfg, directory), "resumed_from": resumed}
    result.write(directory, outcome)
    show(outcome, directory)
    return outcome


def train(
    cfg: Config,
    directory: Path,
    parts: Parts,
    ahead: Ahead,
    files: dict[str, Records],
    trackers: Trackers,
    step: int,
) -> None:
    """From ``step`` steps done to ``cfg.steps``."""

    def save() -> None:
        begun = ahead.state_dict(step)  # may wait, so a signal may end it
        with deferred():
            state.save(directory / "checkpoints", step, parts.learner, begun, cfg.checkpoint.keep)

    evaluated = everyones({line["step"] for line in read(files["evaluations"].path)})[0]
    due = set(evaluation_steps(cfg))
    try:
        while True:
            agree()
            if step in due - evaluated:
                ahead.settle()
                trackers.status("evaluating")
                line = evaluate(cfg, parts, step)
                files["evaluations"].write(line)
                trackers.log(step, evaluation_metrics(line))
                trackers.status("training" if step < cfg.steps else "saving")
            if step == cfg.steps:
                break
            experience = ahead.take(step + 1)
            with deferred():  # weights, optimizer, records and step change together or not at all
                record = learn(cfg, experience, parts.learner, parts.pad)
                for name, lines in (("layers", record.layers), ("rollouts", record.transcripts)):
                    for line in lines:
                        files[name].write(line)
                files["metrics"].write(record.metrics)
                step += 1
            trackers.log(step, record.metrics)
            if step == cfg.steps or (cfg.checkpoint.every and step % cfg.checkpoint.every == 0):
                save()
    except Interrupted:
        save()
        raise


def evaluate(cfg: Config, parts: Parts, step: int) -> dict[str, Any]:
    """One line of evaluations.jsonl. The base model may have been measured by another run, of one process."""
    start, policy = perf_counter(), parts.learner.model
    pieces = on_all(parts.evaluator.pieces(policy, parts.chat.decode), parts.learner.whole)
    shared = step == 0 and cfg.evaluation.cache and not together()
    cache = Cache(subject(cfg, policy, parts.chat)) if shared else None
    found = list(measured(pieces, lambda: parts.worker, step, cache))
    return {**evaluation_line(step, pieces, found), "time/evaluation": perf_counter() - start}


def evaluation_metrics(line: dict[str, Any]) -> dict[str, float]:
    """Flat metrics of a line of evaluations.jsonl, as shown by trackers."""
    scores = line["tasks"].items()
    metrics = {f"eval/{name}/{key}": score[key] for name, score in scores for key in ("pass@1", "stderr")}
    return metrics | ({"eval/perplexity": line["perplexity"]} if "perplexity" in line else {})


def conclude(cfg: Config, directory: Path) -> dict[str, Any]:
    """Scores before and after with paired differences, and seconds by phase, from the records on disk."""
    lines = {line["step"]: line for line in read(directory / "evaluations.jsonl")}
    out: dict[str, Any] = {"scores": {}}
    if cfg.evaluation.n:
        before, after = lines[0], lines[cfg.steps]
        for name, score in before["tasks"].items():
            change, stderr = difference(score["per_question"], after["tasks"][name]["per_question"])
            out["scores"][name] = {
                "before": score,
                "after": after["tasks"][name],
                "difference": change,
                "stderr": stderr,
            }
        if "perplexity" in before:
            out["perplexity"] = {"before": before["perplexity"], "after": after["perplexity"]}
    seconds: Counter[str] = Counter()
    for line in (*read(directory / "metrics.jsonl"), *lines.values()):
        seconds.update({key.removeprefix("time/"): value for key, value in line.items() if key.startswith("time/")})
    return out | {"seconds": dict(seconds)}


def head(cfg: Config) -> dict[str, Any]:
    """What identifies a run in its result."""
    return {
        "task": cfg.task.name,
        "resolver": cfg.resolver.name,
        "seed": cfg.seed,
        "steps": cfg.steps,
        "scale": cfg.scale,
        "model": cfg.model.path or cfg.model.builtin,
    }
