"""The errors that a user sees. Exit codes: ``ConfigError`` 2, ``RunError`` 1, ``Interrupted`` 128 + its signal."""

from __future__ import annotations

import errno
from pathlib import Path


class ConfigError(ValueError):
    """Bad input. The message names the key or file and says what would be right."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class RunError(RuntimeError):
    """A run cannot go on (full disk, non-finite gradients, dead worker); its last checkpoint is intact."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end. Like Ctrl-C it is no ``Exception``, so that nothing on the way swallows it."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"interrupted by signal {signal}")
        self.signal = signal


def is_disk_full(error: BaseException) -> bool:
    """No space, quota or allowed file size is left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(path: Path) -> RunError:
    """What to tell when ``path`` could not be written for lack of space."""
    return RunError(f"{path}: no space left; free some and give the same command again to go on")
