"""Sampling in process: every response has numbers of its own, and its tokens the probabilities of the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pcr_run.data import Completion, Sampling
from pcr_run.rollout.hf import Draw, HFWorker, nucleus

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [5, 6, 7]]


def sample(worker: HFWorker, prompts: list[list[int]], numbers: list[int] | None = None) -> dict[int, list[Completion]]:
    (part,) = worker.generate(prompts, 3, Sampling(1.0, 1.0, 6), 4, numbers)
    return part


def tokens(part: dict[int, list[Completion]]) -> dict[int, list[tuple[int, ...]]]:
    return {index: [completion.token_ids for completion in group] for index, group in part.items()}


def test_samples_do_not_depend_on_the_prompts_beside_them(untrained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.float64)
    before = torch.get_rng_state()
    whole = sample(HFWorker(model, [1], 0, 128), PROMPTS)
    for batch in (1, 5):
        assert tokens(sample(HFWorker(model, [1], 0, batch), PROMPTS)) == tokens(whole)
    part = sample(HFWorker(model, [1], 0, 2), [PROMPTS[3], PROMPTS[1]], [3, 1])
    for index, number in ((0, 3), (1, 1)):
        for one, other in zip(part[index], whole[number], strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6)
    found = tokens(whole)
    assert found[0] != found[3]  # the same prompt, another number
    assert len(set(found[0])) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0, -torch.inf]])
    count = 4000
    draw = Draw(Sampling(0.5, 1.0, 1), range(count), torch.device("cpu"))
    found = draw(torch.zeros(count, 1, dtype=torch.long), logits.expand(count, -1)).argmax(-1)  # type: ignore[arg-type]
    wanted = (logits[0] / 0.5).softmax(-1)
    shares = torch.bincount(found, minlength=5) / count
    assert (shares - wanted).abs().max() < 4 * (0.25 / count) ** 0.5
    assert shares[4] == 0
    assert draw.logprobs(found[:, None])[:, 0].tolist() == pytest.approx(wanted.log()[found].tolist(), rel=1e-5)


def test_a_nucleus_is_the_fewest_tokens_with_the_mass() -> None:
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert (nucleus(probabilities, 0.5) > 0).tolist() == [[False, True, False, False]]
    assert (nucleus(probabilities, 0.51) > 0).tolist() == [[False, True, False, True]]
    assert (nucleus(probabilities, 0.85) > 0).tolist() == [[False, True, True, True]]
    assert torch.equal(nucleus(probabilities, 1.0), probabilities)
