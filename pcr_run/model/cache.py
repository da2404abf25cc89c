"""Models made on this machine, each in a directory named by what it was made from."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from pcr_run.errors import ConfigError


def root() -> Path:
    """``$PCR_RUN_CACHE``, else ``pcr-run`` in the user's cache directory."""
    return root_and_variable()[0]


def root_and_variable() -> tuple[Path, str]:
    """The same, and the variable that it comes from."""
    if chosen := os.environ.get("PCR_RUN_CACHE"):
        return Path(chosen).expanduser().absolute(), "PCR_RUN_CACHE"
    directory, variable = user()
    return directory / "pcr-run", variable


def user() -> tuple[Path, str]:
    """The user's cache directory and the variable that it comes from; ConfigError for a user without a home."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen).absolute(), "XDG_CACHE_HOME"
    try:
        return (Path.home() / ".cache").absolute(), "HOME"
    except RuntimeError as error:
        raise ConfigError("HOME", "not set, and this user has none; set PCR_RUN_CACHE and HF_HOME") from error


def place(name: str, sources: Iterable[bytes]) -> Path:
    """The directory for a model made from ``sources``, whether it is there or not."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(hashlib.sha256(source).digest())
    return root() / f"{name}-{digest.hexdigest()[:12]}"


def made(directory: Path, make: Callable[[Path], None]) -> Path:
    """``directory``, after ``make`` has filled it if it was not there.

    It appears whole or not at all. Of several processes that want it at once one makes it and the others wait.
    """
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot write to {directory.parent} ({error.strerror}); set it to a writable one"
        raise ConfigError("PCR_RUN_CACHE", problem) from error
    try:
        with (
            FileLock(f"{directory}.lock"),
            tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch,
        ):
            if not directory.is_dir():
                (new := Path(scratch) / "model").mkdir()
                make(new)
                new.rename(directory)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError("PCR_RUN_CACHE", f"cannot write to {directory.parent}; set it to a writable one") from error
    return directory
