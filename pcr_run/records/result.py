"""The files of a run directory that say what was run (``config.yaml``) and how it ended (``result.json``)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcr_run.errors import ConfigError
from pcr_run.records.jsonl import finite
from pcr_run.schema import Config, to_dict


def read(directory: Path) -> dict[str, Any]:
    """The result of a run; empty where there is none, or a damaged one."""
    try:
        found = json.loads((directory / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # not JSON, or not even text
        return {}
    return found if isinstance(found, dict) else {}


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration that made a run directory; raises ``ConfigError`` for a damaged file."""
    path = directory / "config.yaml"
    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"not readable as a configuration ({error}); move it away") from error
    if not isinstance(found, dict):
        raise ConfigError(str(path), "not a configuration; move it away")
    return found  # type: ignore[return-value]


def write(directory: Path, result: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    replace(directory / "result.json", json.dumps(finite(result), indent=2, allow_nan=False) + "\n")


def save_config(directory: Path, cfg: Config) -> None:
    """Write the resolved configuration: from here on the directory belongs to it."""
    replace(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(to_dict(cfg))))


def mark(directory: Path, cfg: Config, status: str, reason: str) -> None:
    """Record that a run ended early, beside what it had already found out."""
    who = {"task": cfg.task.name, "resolver": cfg.resolver.name, "seed": cfg.seed, "steps": cfg.steps}
    with contextlib.suppress(OSError):  # a full disk must not hide the reason, which is shown and logged as well
        write(directory, {**who, **read(directory), "status": status, "reason": reason})


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
