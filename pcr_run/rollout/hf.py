"""Sampling with transformers' ``generate``, in process, from the learner's own weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pcr_run.data import Completion, Sampling
from pcr_run.seeds import derive


class HFWorker:
    """Samples from ``model`` itself, so there is nothing to transfer.

    ``eos``: ids that end a response; ``pad``: filler; ``batch``: responses generated at once.
    """

    def __init__(self, model: PreTrainedModel, eos: Sequence[int], pad: int, batch: int) -> None:
        self.model, self.eos, self.pad, self.batch = model, list(eos), pad, batch

    def synced(self, step: int) -> contextlib.nullcontext[dict[str, float]]:
        """Nothing to do: worker and learner share the weights."""
        return contextlib.nullcontext({})

    def close(self) -> None:
        """Nothing to release."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """``n`` completions for each prompt, in one part."""
        numbers = range(len(prompts)) if numbers is None else numbers
        seeds = [derive(seed, number, i) for number in numbers for i in range(n)]
        yield dict(enumerate(self._all(prompts, n, sampling, seeds)))

    @torch.no_grad()
    def _all(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        training = self.model.training
        self.model.eval()
        rows = [prompt for prompt in prompts for _ in range(n)]
        with plain_defaults(self.model):
            done = [
                completion
                for start in range(0, len(rows), self.batch)
                for completion in self._batch(
                    rows[start : start + self.batch], sampling, seeds[start : start + self.batch]
                )
            ]
        self.model.train(training)
        return [done[i : i + n] for i in range(0, len(done), n)]

    def _batch(self, rows: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        width = max(map(len, rows))
        # Left padding: the last column is every row's last prompt token.
        ids = torch.tensor([[self.pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        draw = Draw(sampling, seeds, self.model.device)
        config = GenerationConfig(
            do_sample=False,  # the choice is made by ``draw``
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )
        out = self.model.generate(  # type: ignore[operator]
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([draw]),
        )[:, width:].cpu()
        logprobs = draw.logprobs(out)
        return [self._completion(*row) for row in zip(out.tolist(), logprobs.tolist(), strict=True)]

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        end = next((i + 1 for i, token in enumerate(ids) if token in self.eos), None)
        return Completion(tuple(ids[:end]), tuple(logprobs[:end]), "length" if end is None else "stop")


class Draw(LogitsProcessor):
    """Draws each row's tokens with numbers of its own, and keeps their log-probs, one step's logits at a time.

    So what a row gets does not depend on the rows beside it. Afterwards only the drawn token is possible.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], device: torch.device) -> None:
        self.sampling, self.temperature = sampling, sampling.temperature or 1.0
        streams = [
            torch.rand(sampling.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        self.uniform = torch.stack(streams, 1).to(device)  # [T, rows]
        self.columns: list[Tensor] = []
        self.last: Tensor | None = None
        self.step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Called before each token is drawn; ``input_ids`` ends with the token drawn before."""
        if self.last is not None:
            self.columns.append(self.last.gather(-1, input_ids[:, -1:]))
        self.last = (scores / self.temperature).log_softmax(-1)
        if self.sampling.temperature == 0:
            return scores
        below = nucleus(self.last.double().exp(), self.sampling.top_p).cumsum(-1)
        target = self.uniform[self.step, :, None] * below[:, -1:]
        drawn = (below <= target).sum(-1, keepdim=True).clamp_max(below.shape[-1] - 1)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)  # type: ignore[return-value]

    def logprobs(self, sampled: Tensor) -> Tensor:
        """Log-probs [rows, T] of the ``sampled`` ids [rows, T] at the temperature, before any nucleus cut."""
        if len(self.columns) < sampled.shape[1]:
            assert self.last is not None
            self.columns.append(self.last.gather(-1, sampled[:, -1:].to(self.last.device)))
        return torch.cat(self.columns[: sampled.shape[1]], dim=-1).cpu()


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The most probable tokens that together have at least ``top_p`` [rows, V], the others with 0."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, order, torch.where(before < top_p, ordered, 0.0))


@contextlib.contextmanager
def plain_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation defaults (penalties, top_k, ...): log-probs are taken of the plain policy."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
