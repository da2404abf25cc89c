"""Tasks of lm-evaluation-harness (extra ``lm-eval``) on the policy in memory: WikiText-2, MMLU, or any other."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from pcr_run.errors import ConfigError
from pcr_run.evaluation.piece import Piece
from pcr_run.schema import HarnessConfig

KEY = "evaluation.harness.tasks"


class Harness:
    """The configured tasks with their data; raises ``ConfigError`` for one that is not known or cannot be loaded."""

    def __init__(self, cfg: HarnessConfig) -> None:
        self.cfg = cfg
        self.manager = _manager(cfg.include_path and str(Path(cfg.include_path).expanduser()))
        with quiet(), random_states_kept():
            self.loaded = {name: self._load(name) for name in cfg.tasks}

    def pieces(self, tokenizer: Any, model: PreTrainedModel) -> list[Piece]:
        """One a task; for the fields of a result see ``measure``."""
        return [
            Piece(
                "harness",
                (name,),
                partial(self.identity, name),
                lambda _, name=name: self.measure(name, tokenizer, model),  # type: ignore[misc]
            )
            for name in self.cfg.tasks
        ]

    def identity(self, name: str) -> dict[str, Any]:
        """Version of lm-eval, options, and each task with its data."""
        options = {key: value for key, value in asdict(self.cfg).items() if key not in ("tasks", "include_path")}
        tasks = {
            task: [
                str(each.dump_config()),
                {split: getattr(rows, "_fingerprint", str(rows)) for split, rows in dict(each.dataset or {}).items()},
            ]
            for task, each in self.loaded[name].items()
        }
        return {"lm-eval": metadata.version("lm-eval"), "task": name, "options": options, "tasks": tasks}

    def measure(self, name: str, tokenizer: Any, model: PreTrainedModel) -> dict[str, Any]:
        """``metrics`` with value and standard error (null: lm-eval gives none), ``questions``, ``shots``, ``version``.

        ``per_question`` holds the accuracy of each question where there is one, so that models can be compared in
        pairs. Global random states and the model's mode are left as they were.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        training, cfg = model.training, self.cfg
        with quiet(), random_states_kept():
            policy = HFLM(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),
                batch_size=cfg.batch_size,
                max_length=cfg.max_length,
            )
            found = simple_evaluate(
                model=policy,
                tasks=[name],
                task_manager=self.manager,
                num_fewshot=cfg.num_fewshot,
                limit=cfg.limit,
                apply_chat_template=cfg.apply_chat_template,
                bootstrap_iters=1000,
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
        model.train(training)
        assert found is not None
        samples = [sample for task in self.loaded[name] for sample in found["samples"][task]]
        metrics = _metrics(found["results"][name])
        out = {
            "metrics": metrics,
            "questions": sum(
                len({sample["doc_id"] for sample in found["samples"][task]}) for task in self.loaded[name]
            ),
            "shots": max(found["n-shot"].get(task) or 0 for task in self.loaded[name]),
            "version": found["versions"].get(name),
        }
        right = [float(sample["acc"]) for sample in samples if "acc" in sample]
        if right and math.isclose(fmean(right), metrics.get("acc", {}).get("value") or 0.0, abs_tol=1e-9):
            out["per_question"] = right
        return out

    def _load(self, name: str) -> dict[str, Any]:
        if name in self.manager.all_tags:
            raise ConfigError(KEY, f"{name!r} is a tag of several tasks; name the tasks, or a group")
        if name not in self.manager.all_tasks:
            raise ConfigError(KEY, f"lm-eval has no task {name!r}; `lm-eval ls tasks` lists them")
        try:
            return dict(self.manager.load([name])["tasks"])
        except Exception as error:  # lm-eval raises whatever its tasks and their data sets raise
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                KEY, f"{name} cannot be loaded ({told}); without network give local tasks (include_path)"
            ) from error


@functools.cache
def _manager(include_path: str | None) -> Any:
    """lm-eval's index of tasks, which takes seconds to make."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(KEY, f"lm-eval is not installed ({error}); pip install 'pcr-run[lm-eval]'") from error
    return TaskManager(include_path=include_path)


def _metrics(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """``acc,none`` and ``acc_stderr,none`` of lm-eval as one entry ``acc``; another filter stays in the name."""
    metrics = {}
    for key, value in result.items():
        name, _, chosen = key.partition(",")
        if chosen and not name.endswith("_stderr") and isinstance(value, int | float):
            stderr = result.get(f"{name}_stderr,{chosen}")
            known = float(stderr) if isinstance(stderr, int | float) else None
            metrics[name if chosen == "none" else key] = {"value": float(value), "stderr": known}
    return metrics


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Give Python's and numpy's random states back as they were; lm-eval draws from them."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars of lm-eval and datasets off the terminal."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
