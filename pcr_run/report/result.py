"""``result.json``: how a run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcr_run.config import Config


def read(directory: Path) -> dict[str, Any]:
    """The result of a run; empty where there is none, or a damaged one."""
    try:
        found = json.loads((directory / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write(directory: Path, result: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    path = directory / "result.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)


def mark(directory: Path, cfg: Config, status: str, reason: str) -> None:
    """Record that a run ended early, beside what it had already found out."""
    who = {"task": cfg.task.name, "resolver": cfg.resolver.name, "seed": cfg.seed, "steps": cfg.steps}
    write(directory, {**who, **read(directory), "status": status, "reason": reason})
