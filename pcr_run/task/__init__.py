"""A configuration of questions in; training and held-out items, and what judges them, out. May import nothing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pcr_run.data import UNGRADABLE, Task
from pcr_run.errors import ConfigError
from pcr_run.task import overlap
from pcr_run.task.options import check_known, check_types

if TYPE_CHECKING:
    from pcr_run.schema import TaskConfig


def make(cfg: TaskConfig, seed: int, key: str = "task") -> Task:
    """A task as ``load`` gives it, without training questions that it holds out itself (``overlap.apart``)."""
    task = load(cfg, seed, key)
    return overlap.apart(task, [task], cfg.overlap == "drop", f"{key}.data")


def load(cfg: TaskConfig, seed: int, key: str = "task") -> Task:
    """A task's questions as its source gives them; ``key`` is where its configuration stands, for messages.

    ``cfg.data`` is ``source``, a module of this package with ``load(seed, **options)`` or ``module:function`` of the
    user's, and that function's options; it returns (training items, held-out items). ``ungradable`` is one of
    ``UNGRADABLE``. Raises ``ConfigError`` for an unknown source or option and an empty side. Only a source that is
    given ``train: null`` (a benchmark) may have no training items.
    """
    try:
        return _load(cfg, seed)
    except ConfigError as error:  # a source speaks of its options as those of the trained task
        raise ConfigError(key + error.key.removeprefix("task"), error.problem) from error


def _load(cfg: TaskConfig, seed: int) -> Task:
    options = dict(cfg.data)
    load = _loader(options.pop("source", None))
    ungradable = options.pop("ungradable", "refuse")
    if ungradable not in UNGRADABLE:
        raise ConfigError("task.data.ungradable", f"unknown rule {ungradable!r}; choose {', '.join(UNGRADABLE)}")
    _check(load, options)
    train, test = load(seed, **options)
    if not test:
        raise ConfigError("task.data", f"the held-out set of task {cfg.name!r} is empty; at least one row is needed")
    if not train and cfg.data.get("train", 0) is not None:
        raise ConfigError("task.data", f"the training set of task {cfg.name!r} is empty; at least one row is needed")
    return Task(cfg.name, cfg.verifier, train, test, ungradable, n=cfg.n)


def _loader(source: Any) -> Callable[..., Any]:
    name, _, function = str(source).partition(":")
    module = name if function else f"pcr_run.task.{name}"
    try:
        return getattr(importlib.import_module(module), function or "load")
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            "task.data.source", f"cannot find {source!r} ({error}); give a module of pcr_run.task or module:function"
        ) from error


def _check(load: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = list(inspect.signature(load).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {parameter.name: parameter for parameter in parameters}
    check_known("task.data", options, [*known, "ungradable"])
    if load.__module__.startswith("pcr_run."):  # what a user annotates is not ours to judge
        check_types("task.data", load, options)
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(f"task.data.{name}", "this source needs it and it is not set")
