"""The built-in models: where each lies in the cache, and how it gets there. No torch until one is made."""

from __future__ import annotations

from pathlib import Path

from pcr_run import task
from pcr_run.model import cache

SOURCES = ("model/recipe.py", "model/corpus.py", "model/tiny.py") + tuple(
    f"task/{name}.py" for name in ("arithmetic", "functions", "language", "split")
)
"""The tiny model's recipe is these files: a change in one makes another model."""


def tiny_directory() -> Path:
    """Where the tiny model is or will be."""
    package = Path(task.__file__).parents[1]
    return cache.place("tiny", ((package / name).read_bytes() for name in SOURCES))


def tiny() -> Path:
    """The tiny model's directory, trained now if it is not there."""

    def make(directory: Path) -> None:
        from pcr_run.model.tiny import build

        build(directory)

    return cache.made(tiny_directory(), make)
