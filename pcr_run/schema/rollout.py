"""Sampling of training responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pcr_run.right import COUNT, POSITIVE, at_least, between, doc, matching

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM makes room, of its own (0.32, ``MaxLoRARanks``)."""


@dataclass
class RolloutConfig:
    """Sampling of training responses (`rollout=hf|vllm`)."""

    name: str = doc(
        "`hf` (transformers, in process unless `lag=1`) or `vllm` (an engine in processes of its own)",
        right=("hf", "vllm"),
    )
    prompts: int = doc("P, prompts a step", 16, COUNT)
    group: int = doc("G, responses to each prompt", 8, COUNT)
    dynamic: bool = doc("replace groups whose rewards are all equal by fresh prompts (DAPO)", False)
    max_rounds: int = doc("`dynamic`: most rounds of sampling in a step, the first one among them", 4, at_least(2))
    max_prompt_tokens: int = doc(
        "longest prompt; longer ones are left out of training, refused if held out", 256, COUNT
    )
    max_new_tokens: int = doc("longest response; a longer one is cut and counted as truncated", 64, COUNT)
    temperature: float = doc("sampling temperature; log-probs of the policy are taken at it", 1.0, POSITIVE)
    lag: int = doc(
        "1: a step's responses are sampled while the learner works on the step before, from the weights before that "
        "update; needs `old_logprobs=engine`, and on a GPU `gpus`",
        0,
        between(0, 1),
    )
    batch: int = doc("responses generated at once by `rollout=hf`", 128, COUNT)
    old_logprobs: str = doc(
        "log-probs of the policy that sampled: the `learner`'s own, or the `engine`'s", "learner", ("learner", "engine")
    )
    importance: str = doc(
        "`old_logprobs=engine`: importance ratio per `token` or per `sequence`", "token", ("token", "sequence")
    )
    importance_mode: str = doc(
        "`old_logprobs=engine`: a ratio out of bounds is set to the bound (`truncate`) or to 0 (`mask`)",
        "truncate",
        "pcr_run.learner.objective:BOUNDED",
    )
    importance_cap: float = doc("`old_logprobs=engine`: upper bound of the ratio", 2.0, POSITIVE)
    importance_floor: float = doc("`old_logprobs=engine`: lower bound of the ratio", 0.0, at_least(0))
    transfer: str = doc(
        "weights to `vllm` by `files` (shared memory), `ipc` (same GPU) or `nccl` (other GPUs); `auto` chooses",
        "auto",
        ("auto", "files", "ipc", "nccl"),
    )
    lora: str = doc(
        "with `learner.lora`, `vllm` gets weights with the adapter `merged` into them, or the `adapter` itself",
        "merged",
        ("merged", "adapter"),
    )
    gpus: str | None = doc(
        "GPUs of `vllm`, or of `hf` with `lag=1`, as in CUDA_VISIBLE_DEVICES, of several processes each an equal part; "
        "null = the learner's, in turns",
        None,
        matching(r"[\w-]+(,[\w-]+)*", "a list like 1,2"),
    )
    canary: float | None = doc("largest difference of a log-prob after a sync, nats; null = by dtype", None, POSITIVE)
    restarts: int = doc(
        "how often a `vllm` that died is started again in a run of one process (`lag=1`: never)", 2, at_least(0)
    )
    start_seconds: float = doc("time limit for the start of `vllm`, or of `hf` with `lag=1`", 600.0, POSITIVE)
    engine: dict[str, Any] = doc("further arguments of vLLM's engine, e.g. `tensor_parallel_size`", {})
