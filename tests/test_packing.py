"""Rows without padding: the same logits and gradients as padded rows, or a fallback that says why."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers as hf
from brute_force import ARCHITECTURES, SMALL, small
from conftest import DEVICE
from torch import nn

from pcr_run.model import packing
from pcr_run.model.packing import Tokens
from pcr_run.model.policy import logprobs, split
from pcr_run.ragged import Ragged

pytestmark = pytest.mark.usefixtures("float64_throughout")

MORE = {
    "mistral, a window": lambda: small(
        hf.MistralConfig, **SMALL, intermediate_size=24, num_key_value_heads=2, sliding_window=4
    ),
    "gemma3, windows in some layers": lambda: small(
        hf.Gemma3TextConfig, **SMALL, intermediate_size=24, num_key_value_heads=2, head_dim=8, sliding_window=3
    ),
    "qwen3": lambda: small(hf.Qwen3Config, **SMALL, intermediate_size=24, num_key_value_heads=1, head_dim=8),
    "phi3": lambda: small(hf.Phi3Config, **SMALL, intermediate_size=24, num_key_value_heads=2, pad_token_id=0),
    "olmo2": lambda: small(hf.Olmo2Config, **SMALL, intermediate_size=24, num_key_value_heads=2, pad_token_id=0),
}
PACKED = {**{name: build for name, build in ARCHITECTURES.items() if name != "gemma2"}, **MORE}

PADDED = {
    "soft caps": (ARCHITECTURES["gemma2"], "softcap"),
    "alibi": (lambda: small(hf.BloomConfig, vocab_size=23, hidden_size=16, n_layer=2, n_head=2), ""),
    "a state": (lambda: small(hf.MambaConfig, vocab_size=23, hidden_size=16, num_hidden_layers=2), ""),
    "chunks that only the mask knows": (
        lambda: small(
            hf.Llama4TextConfig,
            **SMALL,
            **{"intermediate_size": 24, "intermediate_size_mlp": 24, "num_key_value_heads": 2, "head_dim": 8},
            **{"num_local_experts": 2, "attention_chunk_size": 4, "pad_token_id": 0},
        ),
        "a part of a row",
    ),
    "attention of its own": (
        lambda: small(
            hf.GPTNeoConfig,
            **{"vocab_size": 23, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 3},
            **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32},
        ),
        "",
    ),
}


def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(2)
    return Tokens(torch.randint(23, (30,), generator=generator).to(DEVICE), Ragged((9, 3, 11, 7), DEVICE))


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_give_the_logits_and_gradients_of_padded_ones(name: str) -> None:
    model = PACKED[name]()
    given = tokens()
    padded = given.rows.flat(model(input_ids=given.rows.pad(given.ids), use_cache=False).logits)
    weights = torch.randn(padded.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(DEVICE)
    (padded * weights).sum().backward()
    before = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert packing.enable(model)
    packed = model(**packing.inputs(given), use_cache=False).logits[0]
    torch.testing.assert_close(packed, padded, rtol=1e-10, atol=1e-13)
    (packed * weights).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, before[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PADDED)
def test_a_model_that_cannot_take_packed_rows_is_left_as_it_was(name: str, caplog: pytest.LogCaptureFixture) -> None:
    build, reason = PADDED[name]
    model = build()
    before = model.config._attn_implementation
    with caplog.at_level(logging.INFO, "pcr_run"):
        assert not packing.enable(model)
    assert "rows are padded" in caplog.text
    assert reason in caplog.text
    assert model.config._attn_implementation == before
    policy, given = split(model), tokens()
    expected = model(input_ids=given.rows.pad(given.ids), use_cache=False).logits
    torch.testing.assert_close(policy.head(policy.hidden(given)), given.rows.flat(expected), rtol=1e-10, atol=1e-12)


def test_sampling_goes_on_as_before(untrained) -> None:
    """A packed model still generates: left padding and a cache go to the attention that was there."""
    model = hf.AutoModelForCausalLM.from_pretrained(untrained)
    ids, mask = torch.tensor([[0, 0, 7, 8], [4, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}
    before = model.generate(ids, **options)
    assert packing.enable(model)
    assert torch.equal(model.generate(ids, **options), before)


def test_what_is_saved_does_not_know_of_packing(untrained, tmp_path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(untrained)
    packing.enable(model)
    model.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()


def test_logprobs_do_not_depend_on_packing() -> None:
    models: list[nn.Module] = []
    for packed in (False, True):
        models.append(ARCHITECTURES["llama"]())
        assert not packed or packing.enable(models[-1])
    ids = tokens().rows.pad(tokens().ids)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 2:5] = True
    plain, without = (logprobs(split(model), ids, mask, 0.7) for model in models)
    torch.testing.assert_close(without, plain, rtol=1e-10, atol=1e-13)


def test_under_autocast_attention_computes_in_half_precision() -> None:
    """Rotary embeddings leave float32 queries and keys, with which no variable-length kernel would run on a GPU."""
    x = torch.ones(3, 2, 8)
    assert packing.computed(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert packing.computed(x).dtype == torch.bfloat16
        assert packing.computed(x.double()).dtype == torch.float64


def test_what_rows_are_asked_for_in_every_layer_is_made_once() -> None:
    rows = Ragged((9, 3, 11, 7), DEVICE)
    assert rows.only([1, 2]) is rows.only(range(1, 3))
    assert rows.ends is rows.ends
    assert rows.ends.tolist() == [0, 9, 12, 23, 30]
    assert rows.within(12).tolist() == [*range(9), *range(12, 15), *range(24, 35), *range(36, 43)]
