"""What a model is, read from its files alone: no torch, no transformers, no weights."""

from __future__ import annotations

from dataclasses import dataclass

from pcr_run.config import ModelConfig
from pcr_run.model import builtin, recipe


@dataclass(frozen=True)
class Card:
    """A model's shape. ``parameters`` is None where the files do not tell."""

    architecture: str
    hidden: int
    layers: int
    vocabulary: int
    parameters: int | None
    has_chat_template: bool
    where: str

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for a table."""
        parameters = "unknown" if self.parameters is None else f"{self.parameters:,}"
        return [
            ("architecture", self.architecture),
            ("shape", f"{self.layers} layers, hidden {self.hidden:,}, vocabulary {self.vocabulary:,}"),
            ("parameters", parameters),
            ("chat template", "yes" if self.has_chat_template else "no"),
            ("where", self.where),
        ]


def read(cfg: ModelConfig) -> Card:
    """The card of the configured model."""
    shape = recipe.ARCHITECTURE
    return Card(
        "Qwen2ForCausalLM",
        shape["hidden_size"],
        shape["num_hidden_layers"],
        shape["vocab_size"],
        None,
        True,
        str(builtin.tiny_directory()),
    )
