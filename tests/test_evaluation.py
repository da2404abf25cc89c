"""Perplexity against the loss of transformers, one document at a time."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from pcr_run.evaluation.evaluation import alike, perplexity


def documents(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(100, (length,), generator=generator) for length in lengths]


def test_perplexity_is_that_of_each_document_by_itself(untrained) -> None:
    model = AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.float64).eval()
    texts = documents(9, 2, 30, 5, 5, 17, 1)
    with torch.no_grad():
        losses = [
            (len(ids) - 1) * model(input_ids=ids[None], labels=ids[None]).loss.item() for ids in texts if len(ids) > 1
        ]
    expected = math.exp(sum(losses) / sum(len(ids) - 1 for ids in texts))
    assert perplexity(model, texts) == pytest.approx(expected, rel=1e-6)


def test_batches_hold_every_document_once_and_few_tokens() -> None:
    texts = documents(3, 50, 7, 8, 8, 2, 200, 9)
    batches = list(alike(texts, tokens=100))
    assert sorted(len(one) for batch in batches for one in batch) == sorted(map(len, texts))
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= 100 for batch in batches)
    assert len(batches) < len(texts)
