"""What vLLM is started with: arguments of its ``LLM`` and the environment of its processes."""

from __future__ import annotations

import os
from typing import Any

from pcr_run.distributed import launch, ranks
from pcr_run.errors import ConfigError
from pcr_run.rollout import canary
from pcr_run.schema import Config
from pcr_run.schema.rollout import LORA_RANKS

CPU = {"enable_chunked_prefill": False}
"""A prompt that is computed in pieces and has a seed kills vLLM 0.32 on CPU: it turns the seed's generator back, which
CPU generators cannot ('CPU Generator does not use offset')."""


def arguments(cfg: Config, model: Any) -> dict[str, Any]:
    """Arguments of vLLM's ``LLM``: ours, then those of ``rollout.engine``. ConfigError for what does not fit."""
    rollout = cfg.rollout
    responses = max(rollout.max_new_tokens, cfg.evaluation.max_new_tokens or 0)
    needed = max(rollout.max_prompt_tokens + responses, canary.TOKENS + 1)
    given = {key: value for key, value in rollout.engine.items() if value is not None}
    length = given.get("max_model_len", needed)
    if length < needed:
        raise ConfigError(
            "rollout.engine.max_model_len",
            f"{length} is below {needed}, the longest prompt with the longest response; raise it",
        )
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(
            "rollout.max_new_tokens",
            f"prompt and response may have {length} tokens, the model takes {longest}",
        )
    merged = {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the model's own sampling defaults
        "logprobs_mode": "processed_logprobs",
        "seed": cfg.seed % 2**31,
        "dtype": cfg.model.dtype,
        "max_model_len": length,
        "trust_remote_code": cfg.model.trust_remote_code,
        "disable_log_stats": True,
        **(CPU | {"max_num_batched_tokens": max(4096, length)} if model.device.type == "cpu" else {}),
        "worker_extension_cls": "pcr_run.rollout.extension.Weights",
        "enable_sleep_mode": model.device.type == "cuda" and rollout.gpus is None,
        **given,
    }
    if rollout.lora == "adapter":
        merged |= adapter(cfg.learner.lora.r or 0, merged["dtype"], model.device.type)
    if model.device.type == "cpu" and "kv_cache_memory_bytes" not in given:
        merged["kv_cache_memory_bytes"] = cpu_cache(cfg, text, length)
    return merged


def adapter(r: int, dtype: str, device: str) -> dict[str, Any]:
    """Room for one adapter of rank ``r``; ConfigError where vLLM has no kernels for it."""
    if device == "cuda" and dtype == "float32":
        raise ConfigError(
            "rollout.lora", "on GPUs vLLM multiplies with adapters in half precision only; right: merged, or bfloat16"
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(rank for rank in LORA_RANKS if rank >= r)}


def cpu_cache(cfg: Config, text: Any, length: int) -> int:
    """Bytes for keys and values on CPU: what a step's responses need, at most a quarter of the free memory.

    Ranks have their part of the responses, and of the memory.
    """
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    sequence = 2 * text.num_hidden_layers * heads * size * 4 * length
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // launch.local_ranks()
    if sequence > free // 4:
        raise ConfigError(
            "rollout.max_new_tokens",
            f"keys and values of one response take {sequence >> 20} MiB, over a quarter of the free {free >> 20} MiB",
        )
    # Blocks are given out whole, 128 tokens each on CPU: a margin of one block a response.
    prompts = -(-cfg.rollout.prompts // ranks.size())
    wanted = prompts * cfg.rollout.group * (sequence + sequence * 128 // length)
    return max(min(wanted, free // 4), 64 << 20)


def environment(cfg: Config, device: Any, dtype: str, transfer: str) -> dict[str, str]:
    """Variables of the engine's processes; ``device``: the learner's, ``dtype``: the engine's."""
    found = {}
    if (own := gpus(cfg.rollout.gpus, device)) is not None:
        found["CUDA_VISIBLE_DEVICES"] = own
    threads = cfg.threads or os.environ.get("OMP_NUM_THREADS")
    if threads:  # else vLLM binds its threads to cores, and every engine on a CPU to the same ones
        found |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    if dtype == "float32":
        found["TRITON_F32_DEFAULT"] = "ieee"  # attention kernels on GPUs would round operands to TF32
    if transfer == "ipc":
        found["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of GPU memory, from our own process
    return found


def gpus(given: str | None, device: Any) -> str | None:
    """CUDA_VISIBLE_DEVICES of this rank's engine: its part of those given, or its learner's; None: as it is."""
    if device.type != "cuda" or (not ranks.together() and (given is not None or device.index == 0)):
        return given
    if given is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return visible.split(",")[device.index] if visible else str(device.index)
    every = given.split(",")
    each = len(every) // launch.local_ranks()
    return ",".join(every[launch.local_rank() * each :][:each])
