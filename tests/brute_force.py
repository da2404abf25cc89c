"""Two gradients of small models of every kind by one float64 backward per response: what the tests hold ours to."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers as hf
from conftest import DEVICE
from torch import nn

from pcr_run.gradients.cut import cuttable
from pcr_run.gradients.two import TwoGradients

P, G, T, BETA = 2, 3, 7, 0.3
N = P * G
SMALL = {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def small(config_class: type, **more: object) -> nn.Module:
    torch.manual_seed(0)
    config = config_class(**more)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    if config_class is hf.MixtralConfig:
        model.set_experts_implementation("eager")  # grouped matrix products know no float64
    return model.to(DEVICE)


ARCHITECTURES = {
    "llama": lambda: small(hf.LlamaConfig, **SMALL, intermediate_size=24, num_key_value_heads=1),
    "qwen2_tied": lambda: small(
        hf.Qwen2Config, **SMALL, intermediate_size=24, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "gpt_neox": lambda: small(hf.GPTNeoXConfig, **SMALL, intermediate_size=24),
    "gpt2": lambda: small(hf.GPT2Config, vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "opt": lambda: small(hf.OPTConfig, **SMALL, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=32),
    "mixtral": lambda: small(
        hf.MixtralConfig, **SMALL, intermediate_size=24, num_key_value_heads=2, num_local_experts=3
    ),
    "gemma2": lambda: small(
        hf.Gemma2Config, **SMALL, intermediate_size=24, num_key_value_heads=2, head_dim=8, sliding_window=4
    ),
}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids [N, T] and per-token coefficients [N, T-1] of the two losses; the last row says nothing to g_pla."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(23, (N, T), generator=generator)
    pla, sta = torch.randn(2, N, T - 1, generator=generator, dtype=torch.float64) / N
    pla[-1] = 0
    return ids.to(DEVICE), pla.to(DEVICE), sta.to(DEVICE)


def losses(
    model: nn.Module, ids: torch.Tensor, pla: torch.Tensor, sta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(input_ids=ids, use_cache=False).logits
    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return [(pla * logp).sum(), (sta * torch.exp(logp)).sum()]


def layers(model: nn.Module) -> list[nn.Module]:
    """Where the twin engine cuts the model."""
    return cuttable(model, lambda ids: model(input_ids=ids, use_cache=False).logits)


def collect(
    model: nn.Module, names: list[str], sizes: list[int], unit: str, pad: int = 0, **engine: object
) -> TwoGradients:
    """Feed the batch in microbatches of the given sizes, with ``pad`` more columns of padding."""
    ids, pla, sta = batch()
    ids, pla, sta = (torch.nn.functional.pad(x, (0, pad)) for x in (ids, pla, sta))
    model.zero_grad()
    with TwoGradients(model, names, rows=N, group=G, unit=unit, microbatch=G, **engine) as two:
        for i, j, s in zip(ids.split(sizes), pla.split(sizes), sta.split(sizes), strict=True):
            two.backward(*losses(model, i, j, s), BETA, len(i))
    return two


def brute(model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """Per-response gradients {name: [2, N, ...]} by one backward each."""
    named = dict(model.named_parameters())
    parameters = [named[name] for name in names]
    ids, pla, sta = batch()
    rows = []
    for objective, i in itertools.product(range(2), range(N)):
        loss = losses(model, ids[i : i + 1], pla[i : i + 1], sta[i : i + 1])[objective]
        rows.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    return {name: torch.stack([row[k] for row in rows]).view(2, N, *named[name].shape) for k, name in enumerate(names)}


def variance(rows: torch.Tensor, unit: str) -> torch.Tensor:
    """The textbook formulas of each unit from per-response shares [N, ...] of the batch gradient."""
    u = (N * rows).view(P, G, -1)
    prompts, mean = u.mean(1), u.mean((0, 1))
    if unit == "response":
        return ((u - prompts[:, None]) ** 2).sum() / (G * (G - 1)) / P**2
    return ((prompts - mean) ** 2).sum() / (P * (P - 1))


def agree(two: TwoGradients, truth: dict[str, torch.Tensor], unit: str) -> None:
    """Both batch gradients, their Gramian and their variances, of every parameter that ``two`` has measured."""
    table = two.table()
    for k, (name, g_pla) in enumerate(two.plasticity().items()):
        rows = truth[name]
        pla, sta = rows.sum(1)
        torch.testing.assert_close(g_pla, pla, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(two.stability()[name], sta, rtol=1e-9, atol=1e-14)
        expected = {
            "pp": pla.square().sum(),
            "ss": sta.square().sum(),
            "var_pla": variance(rows[0], unit),
            "var_sta": variance(rows[1], unit),
        }
        for column, value in expected.items():
            # 1e-24: squares of float64 rounding, for gradients that vanish in exact arithmetic (biases of keys)
            assert getattr(table, column)[k].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-24), (name, column)
        rounding = 1e-24 + 1e-12 * (pla.norm() * sta.norm()).item()
        assert table.ps[k].item() == pytest.approx((pla * sta).sum().item(), rel=1e-9, abs=rounding), name
