"""Weights & Biases as one more reader of the metrics."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import wandb
from wandb.errors import Error

from pcr_run.errors import ConfigError
from pcr_run.schema import Config, to_dict


class WandbTracker:
    """One wandb run per run directory. Use it in a ``with``: an unfinished run swallows the next one's data."""

    def __init__(self, cfg: Config, directory: Path) -> None:
        options = cfg.tracker.wandb
        try:
            self.run = wandb.init(
                project=options.project,
                entity=options.entity,
                group=options.group,
                name=directory.name,
                id=_run_id(directory),
                resume="allow",
                mode=options.mode,  # type: ignore[arg-type]
                dir=directory,
                config=to_dict(cfg),
                settings=wandb.Settings(console="off", silent=True),
            )
        except Error as error:
            raise ConfigError("tracker.wandb.mode", f"{options.mode}: {error}; offline needs no login") from error

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Hand the metrics on."""
        self.run.log({key: value for key, value in metrics.items() if value is not None}, step=step)

    def status(self, text: str) -> None:
        """Nothing to tell wandb."""

    def __enter__(self) -> WandbTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)


def _run_id(directory: Path) -> str:
    """The same id whenever this directory's run goes on."""
    file = directory / "wandb" / "run_id"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()
