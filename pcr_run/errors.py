"""The errors that a user sees. Exit codes: ``ConfigError`` 2, ``RunError`` 1, ``Interrupted`` 128 + its signal."""


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
