"""The errors that a user sees. ``ConfigError`` ends a run with exit code 2, ``RunError`` with exit code 1."""


class ConfigError(ValueError):
    """Bad input. The message names the key or file and says what would be right."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


class RunError(RuntimeError):
    """A run cannot go on (full disk, non-finite gradients, dead worker); its last checkpoint is intact."""
