"""Small models in real engines, on the GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import DEVICE, save_random
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from pcr_run.configuration import compose
from pcr_run.data import Completion, Sampling
from pcr_run.distributed.whole import Whole
from pcr_run.model.policy import logprobs, split
from pcr_run.rollout.keeper import descendants
from pcr_run.rollout.vllm import VLLMWorker

PROMPTS = [[20, 30, 40, 50], [21, 31, 41], [60, 61, 62, 63, 64, 65], [9]]
PROBE = list(range(10, 42))
EAGER = "rollout.engine.enforce_eager=true"  # starts sooner; the kernels are the same
SHARE = ["++rollout.engine.kv_cache_memory_bytes=268435456"] if DEVICE.type == "cuda" else []
"""A small part of the GPU's memory, for several engines at a time."""


def tiny(directory: Path, tied: bool = True, heads: int = 2) -> Path:
    """A model with random weights large enough that its log-probs say something."""
    return save_random(
        Qwen2ForCausalLM,
        directory,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=heads,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )


def config(*overrides: str) -> Any:
    compose.register()
    with initialize_config_module("pcr_run.conf", version_base="1.3"):
        return compose.to_config(hydra_compose("config", ["rollout=vllm", EAGER, *SHARE, *overrides]))


def worker(path: Path, run: Path, *overrides: str, dtype: str = "float32") -> VLLMWorker:
    cfg = config(f"model.path={path}", f"model.dtype={dtype}", "rollout.max_new_tokens=24", *overrides)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(DEVICE)
    eos = AutoTokenizer.from_pretrained(path).eos_token_id
    return VLLMWorker(cfg, Whole(model), [eos], PROBE, run, lambda _: None)


def sample(made: VLLMWorker, seed: int, n: int = 3, temperature: float = 1.0) -> list[list[Completion]]:
    found: dict[int, list[Completion]] = {}
    for part in made.generate(PROMPTS, n, Sampling(temperature, 1.0, 24), seed):
        found |= part
    return [found[i] for i in range(len(PROMPTS))]


def mismatch(made: VLLMWorker, groups: list[list[Completion]], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probs and those of the learner for the same tokens."""
    policy, worst = split(made.model), 0.0
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            ids = torch.tensor([[*prompt, *one.token_ids]], device=DEVICE)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            mask[:, len(prompt) :] = True
            learner = logprobs(policy, ids, mask, temperature).cpu()
            worst = max(worst, (learner - torch.tensor(one.logprobs)).abs().max().item())
    return worst


def move(model: torch.nn.Module, only: str = "", scale: float = 0.05) -> None:
    """What an optimizer does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise.to(parameter.device, parameter.dtype))


def processes(made: VLLMWorker) -> dict[str, int]:
    """Process ids of an engine's tree by their names."""
    assert made.engine is not None
    pids = [made.engine.keeper.pid, *descendants(made.engine.keeper.pid)]
    return {Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "): pid for pid in pids}
