"""Where a run may write: an unused directory, or one that the same configuration made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.records import result
from pcr_run.schema import FREE, Config, to_dict

RUN_FILES = (
    *(f"{name}.jsonl" for name in ("metrics", "layers", "rollouts", "evaluations")),
    *("checkpoints", "final", "result.json", "env.json"),
)


def check_directory(cfg: Config, directory: Path) -> None:
    """Raise ``ConfigError`` unless this configuration may write there: an unused directory, or one of its own."""
    if (directory / "config.yaml").exists():
        different = sorted(_differences(result.read_config(directory), to_dict(cfg)))
        if different:
            shown = "; ".join(different[:8]) + ("; ..." if len(different) > 8 else "")
            message = f"{directory} was made by another configuration ({shown}); choose another directory"
            raise ConfigError("hydra.run.dir", message)
        if cfg.resume == "never":
            raise ConfigError("resume", f"never, but {directory} holds a run; remove it or choose hydra.run.dir=...")
    else:
        for name in RUN_FILES:
            if (directory / name).exists():
                raise ConfigError("hydra.run.dir", f"{directory} holds {name} of something else; choose another one")


def writable(directory: Path, key: str = "hydra.run.dir") -> None:
    """Raise ``ConfigError`` for ``key`` unless files can be made in its directory."""
    if problem := unwritable(directory):
        raise ConfigError(key, f"{problem}; choose another directory")


def unwritable(directory: Path) -> str | None:
    """Why no file can be made in a directory, which is made if need be; None where one can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        return f"cannot write in {directory} ({error.strerror})"
    return None


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """``key: value there, value here`` for every leaf that changes what is computed."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if prefix or key not in FREE:
                yield from _differences(old.get(key, "unset"), new.get(key, "unset"), f"{prefix}{key}.")
    elif old != new:
        yield f"{prefix[:-1]}: {old} there, {new} here"
