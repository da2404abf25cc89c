"""Runs on disk as a report finds them, without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml


def cell(
    sweep: Path,
    resolver: str,
    seed: int,
    before: list[float],
    after: list[float],
    task: str = "math",
    status: str = "complete",
    metrics: Sequence[dict] = (),
    **extra: Any,
) -> Path:
    """A run with questions' scores before and after, and the task ``other`` that forgets; returns its directory.

    ``extra``: alpha, beta, lr, path, records ``layers``, ``rollouts``, ``evaluations``, and ``scores`` of more tasks.
    """
    records = {name: extra.pop(name, ()) for name in ("layers", "rollouts", "evaluations")}
    more, truncated = extra.pop("scores", {}), extra.pop("truncated", 0.0)
    own = "-".join(str(value).replace("/", "_") for value in extra.values())
    directory = sweep / f"{task}-{resolver}-{seed}-{own}"
    directory.mkdir(parents=True)
    config = {
        "scale": "embedded",
        "seed": seed,
        "steps": 6,
        "task": {"name": task, "data": {"source": f"{task}_questions"}},
        "model": {"path": extra.get("path")},
        "rollout": {"prompts": 4, "group": 2},
        "resolver": {"name": resolver, "alpha": extra.get("alpha", 0.5)},
        "learner": {"beta": extra.get("beta", 0.04), "lr": extra.get("lr", 1e-3)},
        "checkpoint": {"every": seed},
        "tracker": {"wandb": {"group": resolver}},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))

    def score(per_question: list[float]) -> dict:
        return {"pass@1": fmean(per_question), "stderr": 0.1, "per_question": per_question, "truncated": truncated}

    def change(old: list[float], new: list[float]) -> dict:
        return {"before": score(old), "after": score(new), "difference": fmean(new) - fmean(old)}

    result = {
        "status": status,
        "reason": None if status == "complete" else "it was | not to be\nreally",
        "scores": {
            task: change(before, after),
            **({"other": change([0.5], [0.4])} if not more else {name: change(*pair) for name, pair in more.items()}),
        },
        "perplexity": {"before": 2.0, "after": 3.0 + seed},
        "seconds": {"rollout": 10.0 + seed, "learner": 5.0},
    }
    (directory / "result.json").write_text(json.dumps(result))
    for name, lines in {"metrics": metrics, **records}.items():
        if name == "metrics" or lines:
            (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def training(steps: int = 6, rise: float = 0.1) -> list[dict]:
    """Lines of metrics.jsonl."""
    return [
        {
            "step": step,
            "reward": 0.2 + rise * step,
            "kl": 0.01 * step,
            "grad_norm": 1.0 + step % 2,
            "cos_update_sta": 0.5 if step % 3 else -0.1,
            "verdict/correct": 4,
            "verdict/unparsed": 0,
            "zero_advantage_groups": 1,
            "truncated": 0,
            "nonfinite": 0.0,
            "time/rollout": 20.0,
            "time/learner": 10.0,
        }
        for step in range(1, steps + 1)
    ]


def measured(steps: int = 6, layers: int = 3) -> list[dict]:
    """Lines of layers.jsonl: MLP deeper layers conflict more; the first step has no axis."""
    return [
        {
            "step": step,
            "update": 0,
            "layer": layer,
            "module": module,
            "alpha": None if step == 1 else 0.7 if module == "mlp" else 0.2,
            "cos_pla_sta": None if step == 1 else -0.1 * layer if module == "mlp" else 0.0,
        }
        for step in range(1, steps + 1)
        for layer in range(layers)
        for module in ("mlp", "attention")
    ]


def written(step: int = 1, response: str = "\\boxed{4}", **more: Any) -> dict:
    """A line of rollouts.jsonl."""
    line = {"step": step, "item": "sums/2+2", "prompt": [{"role": "user", "content": "2+2?"}], "response": response}
    return {**line, "finish": "stop", "reward": 1.0, "verdict": "correct", "detail": "", **more}


def declare(sweep: Path, name: str, cells: Sequence[str | Path], **more: Any) -> Path:
    """The file of an experiment."""
    (sweep / "experiments").mkdir(exist_ok=True)
    path = sweep / "experiments" / f"{name}.json"
    path.write_text(json.dumps({"name": name, "cells": [Path(cell).name for cell in cells], **more}))
    return path
