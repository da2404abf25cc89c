"""What is measured of a policy: scores of its answers with their standard errors, and perplexity of held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pcr_run.data import Completion, Item, Reward, RolloutWorker, Sampling
from pcr_run.evaluation.piece import Piece, digest, record
from pcr_run.evaluation.scores import scores
from pcr_run.model.packing import Tokens
from pcr_run.model.policy import sampled_logprobs, split
from pcr_run.ragged import Ragged
from pcr_run.reward import stop_on_failures
from pcr_run.schema import RewardConfig
from pcr_run.seeds import derive


@dataclass(frozen=True)
class Questions:
    """Held-out questions of one task with their prompts as token ids, and what judges the answers.

    ``n``: samples of each (None: the evaluator's); ``votes``: answers can be compared, so that a majority means
    something; ``unjudged``: why, by id, for questions that nothing can judge and that are counted as wrong or left out;
    ``also``: another name under which the result stands.
    """

    task: str
    items: Sequence[Item]
    prompts: Sequence[Sequence[int]]
    verifier: Reward
    n: int | None = None
    votes: bool = False
    unjudged: Mapping[str, str] = field(default_factory=dict)
    also: str | None = None

    @cached_property
    def digest(self) -> str:
        """Tells whether two scores are of the same questions, whatever the model's tokenizer."""
        return digest([[item.id, item.prompt, repr(item.reference), item.unjudged] for item in self.items])


@dataclass(frozen=True)
class Evaluator:
    """Measures a policy on several tasks, on text, and by tasks of lm-eval.

    ``n`` samples per question; the same ``seed`` at every call, so that two evaluations of one run share their sampling
    noise as far as the policies agree. ``text``: documents as token ids [T]. ``limits``: when verdicts stop the run.
    ``harness``: gives the pieces that lm-eval measures.
    """

    tasks: Sequence[Questions]
    text: Sequence[Tensor]
    n: int
    sampling: Sampling
    seed: int
    limits: RewardConfig
    harness: Callable[[PreTrainedModel], list[Piece]] | None = None

    def __call__(
        self, worker: RolloutWorker, model: PreTrainedModel, decode: Callable[[Sequence[int]], str]
    ) -> dict[str, Any]:
        """All pieces, measured now; for the fields see ``record``, ``scores`` and ``Harness.measure``."""
        return record((piece, piece.measure(worker)) for piece in self.pieces(model, decode))

    def pieces(self, model: PreTrainedModel, decode: Callable[[Sequence[int]], str]) -> list[Piece]:
        """What there is to measure, one by one: what is sampled comes first."""
        pieces = [
            Piece(
                "tasks",
                (questions.also, questions.task) if questions.also else (questions.task,),
                partial(self._identity, questions),
                partial(self._score, questions, decode),
                sampled=True,
            )
            for questions in self.tasks
        ]
        if self.text:
            pieces.append(Piece("perplexity", (), self._text, lambda _: perplexity(model, self.text)))
        return pieces + (self.harness(model) if self.harness else [])

    def _identity(self, questions: Questions) -> dict[str, Any]:
        """What decides a score besides policy, worker and judge."""
        return {
            "questions": questions.digest,
            "prompts": digest([list(prompt) for prompt in questions.prompts]),
            "unjudged": dict(questions.unjudged),
            "votes": questions.votes,
            "n": questions.n or self.n,
            "sampling": asdict(self.sampling),
            "seed": self._seed(questions),
            "limits": [self.limits.max_failed, self.limits.max_unparsed],
        }

    def _text(self) -> dict[str, Any]:
        return {"text": digest([document.tolist() for document in self.text])}

    def _seed(self, questions: Questions) -> int:
        return derive(self.seed, "evaluation", questions.task)

    def _score(
        self, questions: Questions, decode: Callable[[Sequence[int]], str], worker: RolloutWorker | None
    ) -> dict[str, Any]:
        """For the fields see ``scores``."""
        assert worker is not None
        n = questions.n or self.n
        completions: dict[int, list[Completion]] = {}
        for part in worker.generate(questions.prompts, n, self.sampling, self._seed(questions)):
            completions |= part
        items = [item for item in questions.items for _ in range(n)]
        sampled = [completion for _, group in sorted(completions.items()) for completion in group]
        judged = questions.verifier(items, [decode(completion.token_ids) for completion in sampled])
        stop_on_failures(self.limits, judged)
        votes = [score.answer for score in judged] if questions.votes else None
        return {
            **scores([score.verdict == "correct" for score in judged], votes, n),
            "temperature": self.sampling.temperature,
            "truncated": sum(completion.finish == "length" for completion in sampled) / len(sampled),
            "unclosed_thoughts": sum(score.thinking for score in judged) / len(judged),
            "ungradable": dict(questions.unjudged),
            "items": questions.digest[:16],
        }


def perplexity(model: PreTrainedModel, documents: Sequence[Tensor], window: int | None = None) -> float:
    """exp of the mean negative log-likelihood per token, the first token of each document not counted; may be inf.

    ``window``: most tokens that the model is given at once, None: as many as it has positions for. Longer documents are
    cut as lm-evaluation-harness cuts them, see ``windows``.
    """
    policy = split(model)
    longest = window or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    parts = [part for document in documents for part in windows(document, longest)]
    total, tokens = 0.0, 0
    for batch in alike(parts):
        rows = Ragged(tuple(len(ids) for ids, _ in batch), model.device)
        packed = Tokens(torch.cat([ids for ids, _ in batch]).to(model.device), rows)
        counted = torch.cat([torch.arange(len(ids)) >= max(known, 1) for ids, known in batch]).to(model.device)
        values = sampled_logprobs(policy, packed, counted.nonzero().flatten(), temperature=1.0)
        total, tokens = total - values.sum(dtype=torch.float64).item(), tokens + len(values)
    mean = total / tokens
    return math.exp(mean) if mean < 700 else math.inf  # math.exp raises instead


def windows(document: Tensor, longest: int | None) -> Iterator[tuple[Tensor, int]]:
    """(tokens, how many of them are only context) so that each token but the first is counted once.

    Each window counts ``longest`` tokens after one of context; the last one is filled up with context instead.
    """
    size = len(document) if longest is None else longest + 1
    start = 0
    while start + size < len(document):
        yield document[start : start + size], 1
        start += size - 1
    last = max(0, len(document) - size)
    yield document[last:], start - last + 1


def alike(parts: Sequence[tuple[Tensor, int]], tokens: int = 4096) -> Iterator[list[tuple[Tensor, int]]]:
    """Batches of windows of similar length, at most ``tokens`` with their padding (or a single one that has more)."""
    batch: list[tuple[Tensor, int]] = []
    for part in sorted(parts, key=lambda part: len(part[0])):
        if batch and (len(batch) + 1) * len(part[0]) > tokens:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch
