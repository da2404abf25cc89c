"""What a run leaves for others, ``final/`` in Hugging Face layout; whether it can is found out before it trains."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from pcr_run.errors import ConfigError
from pcr_run.model import lora
from pcr_run.run import checkpoint
from pcr_run.run.interrupt import deferred
from pcr_run.schema import Config
from pcr_run.schema.learner import STATES

SETTINGS, MERGED = "generation_config.json", "merged"
SPARE = 16 << 20
"""Bytes for records and logs."""


def save_final(
    directory: Path, policy: Any, tokenizer: Any, settings: str | None, merge: bool = False, **how: Any
) -> None:
    """``final/``, whole or not at all. ``settings``: the text of the base model's ``generation_config.json``.

    Of a model with an adapter it holds the adapter; ``merge``: and ``final/merged/`` the whole model. ``how``: further
    arguments of ``save_pretrained``.
    """
    final, temporary = directory / "final", directory / ".final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    _save(temporary, policy, tokenizer, settings, **how)
    if merge:
        _save(temporary / MERGED, policy, tokenizer, settings, lora.save_merged, **how)
    with deferred():
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)


def rehearse(directory: Path, policy: Any, tokenizer: Any, settings: str | None, merge: bool = False) -> None:
    """Save all but the weights, and throw it away; ConfigError where a configuration or a tokenizer refuses."""
    temporary = directory / ".final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _save(temporary, policy, tokenizer, settings, state_dict={})
        if merge:
            _save(temporary / MERGED, policy, tokenizer, settings, lora.save_merged, state_dict={})
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        problem = f"this model could be trained but not saved ({str(error).splitlines()[0]})"
        raise ConfigError("model.path", f"{problem}; correct its configuration or its tokenizer") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_room(cfg: Config, directory: Path, policy: Any, step: int) -> None:
    """ConfigError where the disk has no room for the checkpoints to come and ``final/``."""
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    trained = _bytes(weights)
    whole = _bytes(policy.parameters()) if cfg.learner.lora.merge else 0
    state, _ = STATES[cfg.learner.optimizer]
    kept = sum(weight.numel() * state(weight.element_size(), weight.numel()) for weight in weights)
    if cfg.learner.reference.startswith(("every", "ema")):
        kept += trained  # the reference
    if cfg.rollout.lag:  # ids and log-probs of the responses that were sampled ahead
        kept += 16 * cfg.rollout.prompts * cfg.rollout.group * cfg.rollout.max_new_tokens
    there = len(checkpoint.found(directory / "checkpoints"))
    to_come = math.ceil((cfg.steps - step) / (cfg.checkpoint.every or max(1, cfg.steps)))
    # A checkpoint is written before the oldest one goes.
    more = max(0, min(cfg.checkpoint.keep + 1, there + to_come) - there)
    needed = more * (trained + kept) + trained + whole + SPARE  # the last: final/
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ConfigError(
            "hydra.run.dir",
            f"{directory} has {free / 1e9:.1f} GB free; {more} checkpoints and final/ take {needed / 1e9:.1f} GB. "
            "Free some, choose another directory, or lower checkpoint.keep",
        )


def _save(
    directory: Path,
    policy: Any,
    tokenizer: Any,
    settings: str | None,
    write: Callable[..., None] | None = None,
    **how: Any,
) -> None:
    """The base model's generation settings are written back as they came: transformers saves valid ones only."""
    own = policy.generation_config
    policy.generation_config = GenerationConfig()
    try:
        (write or type(policy).save_pretrained)(policy, directory, **how)
    finally:
        policy.generation_config = own
    if settings is None:
        (directory / SETTINGS).unlink(missing_ok=True)
    else:
        (directory / SETTINGS).write_text(settings, encoding="utf-8")
    tokenizer.save_pretrained(directory)


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
