"""What ``model.path`` of ``pcr-eval`` may name: a model, a run directory (its ``final/``), or a checkpoint of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.model import card
from pcr_run.records import result
from pcr_run.schema import ModelConfig

KEY = "model.path"


@dataclass(frozen=True)
class Source:
    """``model`` as transformers find it, the training ``step`` that it is of, and the checkpoint with its weights."""

    model: ModelConfig
    step: int = 0
    checkpoint: Path | None = None

    def restore(self, policy: Any) -> None:
        """Put the checkpoint's weights into ``policy``; ConfigError where they are damaged or of another model."""
        if self.checkpoint is None:
            return
        import torch

        from pcr_run.run import checkpoint

        if problem := checkpoint.damage(self.checkpoint):
            raise ConfigError(KEY, f"the checkpoint {self.checkpoint} is damaged ({problem}); choose another one")
        state = torch.load(self.checkpoint / checkpoint.STATE, map_location="cpu", weights_only=True, mmap=True)
        try:
            policy.load_state_dict(state["model"])
        except RuntimeError as error:
            problem = f"{self.checkpoint} holds weights of another model than {self.model.path or self.model.builtin}"
            raise ConfigError(KEY, f"{problem} ({str(error).splitlines()[0]})") from error


def find(model: ModelConfig) -> Source:
    """What the configured model is; raises ``ConfigError`` for a run without a final model, or without that step.

    How a run asked its model (``template_options``, ``thinking``) holds for its checkpoints too, unless set anew.
    """
    if model.path is None:
        return Source(model)
    directory = Path(model.path).expanduser()
    if directory.parent.name == "checkpoints" and _is_run(run := directory.parents[1]):
        return _step(model, run, directory)
    if directory.name == "checkpoints" and _is_run(directory.parent):
        raise ConfigError(KEY, f"{model.path} names no step; {_steps(directory.parent)}")
    run = directory.parent if directory.name == "final" else directory
    if not _is_run(run):
        return Source(model)
    if not (run / "final").is_dir():
        raise ConfigError(KEY, f"the run {run} has no final model yet; {_steps(run)}")
    config = result.read_config(run)
    return Source(replace(_asked(model, config), path=str(run / "final")), int(config.get("steps", 0)))


def _step(model: ModelConfig, run: Path, directory: Path) -> Source:
    number = re.fullmatch(r"step-(\d+)", directory.name)
    if number is None or not (directory / "manifest.json").is_file():
        raise ConfigError(KEY, f"{model.path} is no checkpoint; {_steps(run)}")
    config = result.read_config(run)
    base = config.get("model") or {}
    template = model.chat_template or base.get("chat_template")
    own = replace(_asked(model, config), path=base.get("path"), builtin=base.get("builtin"), chat_template=template)
    if own.path is not None:
        card.local_directory(own.path, f"{run / 'config.yaml'}: model.path")
    return Source(own, int(number[1]), directory)


def _asked(model: ModelConfig, config: dict[str, Any]) -> ModelConfig:
    """The model with the run's way of asking where none is set."""
    base, plain = config.get("model") or {}, {entry.name: entry for entry in fields(ModelConfig)}
    names = [name for name in ("template_options", "thinking") if name in plain and not getattr(model, name)]
    return replace(model, **{name: base[name] for name in names if base.get(name)})


def _is_run(directory: Path) -> bool:
    return (directory / "config.yaml").is_file() and not (directory / "config.json").is_file()


def _steps(run: Path) -> str:
    """What may be given instead, in words."""
    there = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return f"right: {run}/checkpoints/ with {', '.join(there)}" if there else f"{run} holds no checkpoint"
