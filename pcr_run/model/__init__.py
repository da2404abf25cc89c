"""The policy's base model: where it is, how it is made if it is built in, and how it is loaded."""

from __future__ import annotations

from typing import Any

from pcr_run.config import ModelConfig
from pcr_run.errors import ConfigError
from pcr_run.model import builtin


def locate(cfg: ModelConfig) -> str:
    """A directory in Hugging Face layout or a hub id; a built-in model is made and cached on first use."""
    if cfg.path is not None:
        return cfg.path
    if cfg.builtin == "tiny":
        return str(builtin.tiny())
    raise ConfigError("model.builtin", f"{cfg.builtin!r} is not known; right: tiny; or set model.path")


def load(cfg: ModelConfig, device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) of transformers, the model on ``device`` in evaluation mode, dropout off."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = locate(cfg)
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=cfg.trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(
        where, dtype=cfg.dtype, attn_implementation=cfg.attention, trust_remote_code=cfg.trust_remote_code
    )
    return model.to(device).eval(), tokenizer
