"""What a model is, read from its files alone: no torch, no transformers, no weights."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.model import builtin, known
from pcr_run.schema import ModelConfig

CAUSAL = re.compile(r"(CausalLM|LMHeadModel|ModelWithLMHead|GenerationDecoder|ConditionalGeneration)$")
"""Names of the classes that ``AutoModelForCausalLM`` loads."""
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Card:
    """A model's shape; None where the files do not tell. ``queries``, ``keys``: widths of all heads together."""

    architecture: str | None
    hidden: int | None
    layers: int | None
    vocabulary: int | None
    parameters: int | None
    has_chat_template: bool | None
    where: str
    feed_forward: int | None = None
    queries: int | None = None
    keys: int | None = None

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for a table."""
        template = {True: "yes", False: "no", None: None}[self.has_chat_template]
        values = [
            ("architecture", self.architecture),
            ("hidden size", self.hidden),
            ("layers", self.layers),
            ("vocabulary", self.vocabulary),
            ("parameters", self.parameters),
            ("chat template", template),
            ("where", self.where),
        ]
        return [
            (what, "unknown" if value is None else f"{value:,}" if isinstance(value, int) else value)
            for what, value in values
        ]


def read(cfg: ModelConfig) -> Card:
    """The card of the configured model; a built-in one that is not made yet is described by its recipe.

    Raises ``ConfigError`` for a path that is not there, for a directory without a causal LM, its weights or its
    tokenizer, and where no chat template is found.
    """
    if cfg.chat_template is not None and not Path(cfg.chat_template).expanduser().is_file():
        problem = f"{cfg.chat_template} is not a file; give one that holds a Jinja chat template"
        raise ConfigError("model.chat_template", problem)
    if cfg.path is None:
        directory = builtin.directory(cfg.builtin)
        if directory is None or not directory.is_dir():
            shape = builtin.shape(cfg.builtin)
            return _card(shape, shape["parameters"], True, builtin.origin(cfg.builtin))
        return _read(directory, cfg)
    if (local := local_directory(cfg.path)) is not None:
        return _read(local, cfg)
    if (cached := _downloaded(cfg.path)) is not None:
        return _read(cached, cfg)
    shape = known.SHAPES.get(cfg.path, {})
    template = True if cfg.chat_template else None
    return _card(shape, shape.get("parameters"), template, f"{cfg.path} on the hub, not downloaded yet")


def is_absent(path: str) -> bool:
    """Whether ``model.path`` names a model of the hub that is not on this machine yet."""
    return local_directory(path) is None and _downloaded(path) is None


def local_directory(path: str, key: str = "model.path") -> Path | None:
    """``path`` as a directory; None when it can only be a hub id. Raises ``ConfigError`` for what is neither."""
    directory = Path(path).expanduser()
    right = "give the directory of a model in the Hugging Face layout, or a hub id (owner/name)"
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ConfigError(key, f"{path} is a file; {right}")
    if not HUB_ID.fullmatch(path) or (directory.parts[:-1] and Path(directory.parts[0]).is_dir()):
        raise ConfigError(key, f"{path} does not exist; {right}")
    return None


def read_config(directory: Path, key: str = "model.path") -> dict[str, Any]:
    """``config.json`` of a model's directory; raises ``ConfigError`` where it is missing or damaged."""
    return _json(directory / "config.json", key)


def _read(directory: Path, cfg: ModelConfig) -> Card:
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        raise ConfigError("model.path", f"{directory} holds an adapter; merge it into its base model and save that")
    config = read_config(directory)
    architectures = config.get("architectures") or []
    if not any(CAUSAL.search(name) for name in architectures):
        named = ", ".join(architectures) or "none"
        raise ConfigError("model.path", f"{directory} is not a causal LM (architectures in config.json: {named})")
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("*.bin")):
        raise ConfigError("model.path", f"{directory} has no weights (*.safetensors or *.bin)")
    tokenizer = _json(directory / "tokenizer_config.json", "model.path")
    has_template = cfg.chat_template is not None or _has_template(directory, tokenizer)
    if not has_template:
        raise ConfigError(
            "model.chat_template",
            f"the tokenizer in {directory} has no chat template; give a file with one (base models have none)",
        )
    return _card(config, _parameters(directory), has_template, str(directory))


def _json(file: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = f"{file.parent} holds no {file.name}; give a directory in the Hugging Face layout"
        raise ConfigError(key, problem) from None
    except (OSError, ValueError) as error:
        raise ConfigError(key, f"cannot read {file} ({error}); right: a JSON object") from error
    if not isinstance(found, dict):
        raise ConfigError(key, f"{file} does not hold a JSON object")
    return found


def _has_template(directory: Path, tokenizer: dict[str, Any]) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    return bool(tokenizer.get("chat_template")) or any((directory / name).is_file() for name in files)


def _card(config: dict[str, Any], parameters: int | None, has_template: bool | None, where: str) -> Card:
    text = {**config, **config.get("text_config", {})}

    def first(*names: str) -> int | None:
        return next((text[name] for name in names if isinstance(text.get(name), int)), None)

    hidden, heads = first("hidden_size", "n_embd", "d_model"), first("num_attention_heads", "n_head", "num_heads")
    size = first("head_dim") or (hidden // heads if hidden and heads else None)
    key_heads = first("num_key_value_heads") or heads
    return Card(
        architecture=", ".join(config.get("architectures", [])) or None,
        hidden=hidden,
        layers=first("num_hidden_layers", "n_layer", "num_layers"),
        vocabulary=first("vocab_size"),
        parameters=parameters,
        has_chat_template=has_template,
        where=where,
        feed_forward=first("intermediate_size", "n_inner", "ffn_dim"),
        queries=heads * size if heads and size else None,
        keys=key_heads * size if key_heads and size else None,
    )


def _parameters(directory: Path) -> int | None:
    """Entries of all tensors, from the headers of the safetensors files; None for other formats."""
    files = sorted(directory.glob("model*.safetensors"))
    return sum(math.prod(shape) for file in files for shape in _shapes(file)) or None


def _shapes(file: Path) -> Iterator[list[int]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        yield from (entry["shape"] for name, entry in header.items() if name != "__metadata__")
    except (struct.error, ValueError) as error:
        raise ConfigError("model.path", f"{file} is no whole safetensors file ({error})") from error


def _downloaded(hub_id: str) -> Path | None:
    """The snapshot of a hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found).parent if isinstance(found, str) else None
