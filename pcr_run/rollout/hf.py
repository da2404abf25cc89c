"""Sampling with transformers' ``generate``, in process, from the learner's own weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pcr_run.data import Completion, Sampling


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
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int
    ) -> Iterator[dict[int, list[Completion]]]:
        """``n`` completions for each prompt, in one part. Global random state is left as it was."""
        yield dict(enumerate(self._all(prompts, n, sampling, seed)))

    @torch.no_grad()
    def _all(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int) -> list[list[Completion]]:
        training = self.model.training
        self.model.eval()
        rows = [prompt for prompt in prompts for _ in range(n)]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), plain_defaults(self.model):
            torch.manual_seed(seed)
            done = [
                completion
                for start in range(0, len(rows), self.batch)
                for completion in self._batch(rows[start : start + self.batch], sampling)
            ]
        self.model.train(training)
        return [done[i : i + n] for i in range(0, len(done), n)]

    def _batch(self, rows: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        width = max(map(len, rows))
        # Left padding: the last column is every row's last prompt token.
        ids = torch.tensor([[self.pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        record = Recorder(sampling.temperature or 1.0)
        greedy = sampling.temperature == 0
        config = GenerationConfig(
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_p=None if greedy else sampling.top_p,
            top_k=None if greedy else 0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )
        out = self.model.generate(  # type: ignore[operator]
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([record]),
        )[:, width:].cpu()
        logprobs = record.logprobs(out)
        return [self._completion(*row) for row in zip(out.tolist(), logprobs.tolist(), strict=True)]

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        end = next((i + 1 for i, token in enumerate(ids) if token in self.eos), None)
        return Completion(tuple(ids[:end]), tuple(logprobs[:end]), "length" if end is None else "stop")


class Recorder(LogitsProcessor):
    """Keeps the log-prob of each sampled token, one step's logits at a time instead of all of them."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.columns: list[Tensor] = []
        self.last: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Called before each token is drawn; ``input_ids`` ends with the token drawn before."""
        if self.last is not None:
            self.columns.append(self.last.gather(-1, input_ids[:, -1:]))
        self.last = (scores / self.temperature).log_softmax(-1)
        return scores

    def logprobs(self, sampled: Tensor) -> Tensor:
        """Log-probs [rows, T] of the ``sampled`` ids [rows, T] at the temperature, before any nucleus cut."""
        if len(self.columns) < sampled.shape[1]:
            assert self.last is not None
            self.columns.append(self.last.gather(-1, sampled[:, -1:].to(self.last.device)))
        return torch.cat(self.columns[: sampled.shape[1]], dim=-1).cpu()


@contextlib.contextmanager
def plain_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation defaults (penalties, top_k, ...): log-probs are taken of the plain policy."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
