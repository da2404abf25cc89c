"""Weights & Biases: a login where one is needed."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from pcr_run.schema import Config


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Online without a login."""
    if cfg.tracker.wandb.mode == "online" and not _login():
        yield "tracker.wandb.mode", "online without a login; run `wandb login`, set WANDB_API_KEY, or choose offline"


def _login() -> bool:
    """Whether wandb would find a key; asks no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    names = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    for file in (Path(name).expanduser() for name in names if name):
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
