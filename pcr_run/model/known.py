"""Shapes of the paper's models, for arithmetic before their files are here."""

from __future__ import annotations

from typing import Any

_QWEN_1P5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": False,
    "parameters": 1_777_088_000,
}
_QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
    "parameters": 7_615_616_512,
}

SHAPES: dict[str, dict[str, Any]] = {
    "agentica-org/DeepScaleR-1.5B-Preview": _QWEN_1P5B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _QWEN_1P5B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _QWEN_7B,
    "Qwen/Qwen2-7B-Instruct": _QWEN_7B,
}
"""Of each hub id what its ``config.json`` says, and the entries of all its weights."""
