"""Perplexity against the loss of transformers, one document at a time."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from pcr_run.evaluation.evaluation import alike, perplexity, windows


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
    batches = [[len(ids) for ids, _ in batch] for batch in alike([(ids, 1) for ids in texts], tokens=100)]
    assert sorted(length for batch in batches for length in batch) == sorted(map(len, texts))
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 100 for batch in batches)
    assert len(batches) < len(texts)


@pytest.mark.parametrize("longest", [1, 2, 3, 7, 8, 9, 10, 30, None])
def test_windows_count_each_token_but_the_first_once_and_know_what_they_can(longest) -> None:
    (text,) = documents(9)
    parts = list(windows(text, longest))
    counted = torch.cat([ids[known:] for ids, known in parts])
    assert counted.equal(text[1:])
    assert all(1 <= known <= len(ids) for ids, known in parts)
    if longest is not None and longest < 8:
        assert all(len(ids) == longest + 1 for ids, _ in parts)
        assert all(known == 1 for _, known in parts[:-1])
    else:
        assert len(parts) == 1
