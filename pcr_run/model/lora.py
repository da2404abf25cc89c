"""Low-rank adapters (Hu et al. 2022) by peft: small trained matrices beside frozen Linear layers.

The model stays one of transformers with its own names; beside ``up_proj`` stand ``up_proj.lora_A.default`` and its B,
plain Linear modules, so that gradients are measured as anywhere else. Switched off, the adapter leaves the base model,
which is the reference policy. No torch or peft is imported where none is attached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.schema import LoraConfig

ALL = "all-linear"
KEY = "learner.lora.targets"


def attach(model: Any, cfg: LoraConfig, seed: int) -> None:
    """Freeze ``model`` and put an adapter beside each target; it begins as 0 (B = 0, A random by ``seed``).

    It is kept in float32 where the model is in half precision: small steps would be lost to rounding.
    ConfigError for targets that are not there, or are no Linear layers of their own.
    """
    import peft
    import torch

    targets: Any = ALL if cfg.targets == [ALL] else list(cfg.targets)
    if missing := [] if targets == ALL else [name for name in targets if not _modules(model, name)]:
        raise ConfigError(KEY, f"{type(model).__name__} has no {missing[0]}; right: {ALL}, or some of {_linear(model)}")
    model.requires_grad_(False)
    options: dict[str, Any] = {"r": cfg.r, "lora_alpha": cfg.alpha, "target_modules": targets}
    wanted = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            model.add_adapter(wanted)
        except ValueError as error:
            raise ConfigError(
                KEY, f"{str(error).splitlines()[0]}; right: {ALL}, or some of {_linear(model)}"
            ) from error
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    embeddings = model.get_input_embeddings().weight
    for path, layer in layers(model).items():
        if layer.base_layer.weight is embeddings or not isinstance(layer.base_layer, _kinds()):
            raise ConfigError(KEY, f"{path} is no Linear layer with weights of its own; leave it out")


def attached(model: Any) -> bool:
    """Whether ``attach`` was called."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def layers(model: Any) -> dict[str, Any]:
    """The layers with an adapter, by path; none without any."""
    if not attached(model):
        return {}
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Inside, the model computes what it did before ``attach``. Which weights want gradients stays as it was."""
    found = layers(model).values()
    wants = [(weight, weight.requires_grad) for layer in found for weight in layer.parameters()]
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)
        for weight, wanted in wants:  # peft freezes adapters that are off, and thaws all that are on
            weight.requires_grad_(wanted)


def base(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Weights by name without the adapter's, under the names that they had before ``attach``."""
    if not attached(model):
        return weights
    return {name.replace(".base_layer.", "."): w for name, w in weights.items() if ".lora_" not in name}


def merged(model: Any, weights: dict[str, Any], adapter: dict[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """``base`` weights, those of the layers with an adapter as W + alpha / r B A, made one at a time.

    ``adapter``: A and B under the model's names for them; None: the model's own. The sum is rounded once, to W's dtype.
    """
    adapter = dict(model.named_parameters()) if adapter is None else adapter
    adapted = {f"{path}.weight": (path, layer) for path, layer in layers(model).items()}
    for name, weight in weights.items():
        if name in adapted:
            path, layer = adapted[name]
            a, b = (adapter[f"{path}.lora_{side}.default.weight"].detach() for side in "AB")
            product = (b @ a).T if layer.fan_in_fan_out else b @ a
            change = product * layer.scaling["default"]
            yield name, (weight.to(change.dtype) + change).to(weight.dtype)
        else:
            yield name, weight


def save_merged(model: Any, directory: Path, **how: Any) -> None:
    """``model.save_pretrained``, with the adapter (if there is one) merged: loads in plain transformers, as in vLLM."""
    if not attached(model):
        model.save_pretrained(directory, **how)
        return
    found = how.pop("state_dict", None)  # of a model in shards
    found = model.state_dict() if found is None else found
    weights = {name: weight.cpu() for name, weight in merged(model, base(model, found), found)}
    model._hf_peft_config_loaded = False  # else transformers saves the adapter alone
    try:
        model.save_pretrained(directory, state_dict=weights, **how)
    finally:
        model._hf_peft_config_loaded = True


def _modules(model: Any, name: str) -> list[str]:
    return [path for path, _ in model.named_modules() if path == name or path.endswith(f".{name}")]


def _linear(model: Any) -> str:
    """Last names of the model's Linear layers."""
    found = [path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, _kinds())]
    return ", ".join(dict.fromkeys(found))


def _kinds() -> tuple[type, ...]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, Conv1D
