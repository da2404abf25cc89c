"""Shapes of models and batches that benchmarks/learner.py knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import LlamaConfig, Qwen2Config


@dataclass(frozen=True)
class Size:
    """A model's shape and a batch: P x G responses, shortest and longest prompt and response in tokens."""

    config: Callable[[], object]
    prompts: int
    group: int
    prompt: tuple[int, int]
    response: tuple[int, int]
    tokens: int
    rows: int  # of TRL's microbatch
    checkpointing: bool = False
    rounds: int = 5


def qwen2(hidden: int, inner: int, layers: int, heads: int) -> Callable[[], object]:
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    more = {"num_attention_heads": heads, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return lambda: Qwen2Config(vocab_size=151_936, max_position_embeddings=32_768, **shape, **more)


def smollm2() -> object:
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    return LlamaConfig(
        vocab_size=49_152, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, **shape
    )


def tiny() -> object:
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    return Qwen2Config(vocab_size=576, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, **shape)


SIZES = {
    "tiny": Size(tiny, 16, 8, (6, 40), (8, 48), tokens=4096, rows=32, rounds=11),
    "smollm2": Size(smollm2, 8, 4, (16, 56), (8, 48), tokens=1024, rows=8),
    "qwen2_0p5b": Size(qwen2(896, 4864, 24, 14), 8, 8, (64, 160), (128, 1024), tokens=8192, rows=8),
    "qwen2_1p5b": Size(qwen2(1536, 8960, 28, 12), 4, 8, (64, 160), (256, 2048), 16_384, rows=8, checkpointing=True),
    "qwen2_1p5b_long": Size(qwen2(1536, 8960, 28, 12), 1, 8, (64, 160), (1024, 16_384), 32_768, 1, checkpointing=True),
}
