"""Prompts as token ids in; sampled token ids with their log-probs out. May import distributed, model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcr_run.data import RolloutWorker
from pcr_run.errors import ConfigError
from pcr_run.schema import Config, RolloutConfig

if TYPE_CHECKING:  # the keeper of an engine imports this package, and must start at once
    from pcr_run.distributed.whole import Weights


def make_worker(
    cfg: Config,
    weights: Weights,
    tokenizer: Any,
    prompt: Sequence[int],
    directory: Path,
    status: Callable[[str], None],
) -> RolloutWorker:
    """The worker that ``cfg.rollout.name`` names, sampling from the learner's ``weights``.

    ``prompt``: token ids of some question; ``directory``: of the run; ``status``: told what takes time. Where ranks
    share the weights, all must call.
    """
    model: Any = weights.model
    if cfg.rollout.name == "vllm":
        from pcr_run.rollout.vllm import VLLMWorker

        return VLLMWorker(cfg, weights, end_ids(model, tokenizer), prompt, directory, status)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if cfg.rollout.lag:
        from pcr_run.rollout.apart import ApartWorker

        return ApartWorker(cfg, model, end_ids(model, tokenizer), pad, directory, status)
    from pcr_run.rollout.hf import HFWorker

    return HFWorker(model, end_ids(model, tokenizer), pad, cfg.rollout.batch)


def check_place(rollout: RolloutConfig, device: str) -> None:
    """ConfigError where what samples ahead of a learner on ``device`` ("cpu", "cuda") would take its GPU in turns."""
    if rollout.lag and device != "cpu" and rollout.gpus is None:
        problem = "1 samples while the learner works, and both are on the same GPU"
        raise ConfigError("rollout.lag", f"{problem}; give rollout.gpus others, or set rollout.lag=0")


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's and those of generation_config, since chat models have several."""
    configured = model.generation_config.eos_token_id
    more = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in (tokenizer.eos_token_id, *more) if i is not None})
