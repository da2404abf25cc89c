"""What stands between the stages: task -> rollout -> reward -> objective -> learner. Plain frozen records, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = dict[str, str]
"""One chat message, ``{"role": "user", "content": "..."}``."""

Verdict = Literal["correct", "wrong", "unparsed", "timeout", "stalled", "error", "refused"]
"""How a response was judged; only ``correct`` counts for Pass@1."""

UNGRADABLE = ("refuse", "wrong", "drop")
"""What happens to an item whose gold answer or tests cannot be judged."""


@dataclass(frozen=True)
class CodeTests:
    """Tests of a program. Trusted text from the task, never from a model.

    ``entry_point`` names the function under test; each entry of ``tests`` is one trusted Python statement block that
    may call it by that name and raises on failure. ``setup`` runs once before them. ``preamble`` is put before the
    candidate's code (HumanEval's imports). With ``entry_point=None`` the candidate is a program and ``stdio`` holds
    (standard input, expected standard output) pairs.
    """

    entry_point: str | None
    tests: tuple[str, ...] = ()
    setup: str = ""
    preamble: str = ""
    stdio: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Item:
    """One question: the chat messages shown to the model and what makes an answer right.

    ``reference`` is the gold answer (verifier ``math``) or the tests (verifier ``sandbox``); ``unjudged`` says why it
    cannot be judged, so that every answer is wrong. ``question`` is what is asked without what a task puts around it
    (instructions, a suffix); empty: all of the last message.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str | CodeTests
    meta: dict[str, Any] = field(default_factory=dict)
    unjudged: str = ""
    question: str = ""


@dataclass(frozen=True)
class Overlap:
    """Training questions that a held-out set has as well, of so many (``train``) compared with so many (``test``).

    ``same``: equal but for case, whitespace, punctuation and LaTeX spacing; ``ngram``: of the others, those that share
    13 words in a row.
    """

    same: int
    ngram: int
    train: int
    test: int


@dataclass(frozen=True)
class Task:
    """Questions to train on and held-out ones; the two share no question.

    ``ungradable`` is what happens to items that cannot be judged (``UNGRADABLE``), ``unjudged`` why, by the id of
    held-out ones; ``n``: samples of each held-out question (None: as many as of the others). ``overlap``: what the
    training questions had in common with held-out sets, by the name of their task.
    """

    name: str
    verifier: str
    train: Sequence[Item]
    test: Sequence[Item]
    ungradable: str = "refuse"
    unjudged: dict[str, str] = field(default_factory=dict)
    n: int | None = None
    overlap: dict[str, Overlap] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How to sample: ``temperature`` 0 is greedy; ``top_p`` 1 is the full distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    ``token_ids`` [T] includes the end-of-sequence token when the model wrote it; ``logprobs`` [T] are natural-log
    probabilities of those tokens under the distribution that was sampled from; ``finish`` is ``length`` when the
    response was cut at the limit.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Score:
    """What a reward says about one response.

    ``value`` is the number to learn from, ``parts`` its named summands, ``detail`` why it is not right, if known;
    ``thinking``: the response ends inside a thought; ``answer``: what it claims, where that is one text.
    """

    value: float
    verdict: Verdict
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    detail: str = ""
    thinking: bool = False
    answer: str = ""


@dataclass(frozen=True)
class Rollout:
    """P prompts with G responses each, prompt-major: response ``p * G + g`` answers ``items[p]``."""

    items: Sequence[Item]
    prompt_ids: Sequence[Sequence[int]]
    completions: Sequence[Completion]
    texts: Sequence[str]
    group: int


class RolloutWorker(Protocol):
    """Samples responses from the learner's weights."""

    def synced(self, step: int) -> AbstractContextManager[dict[str, float]]:
        """Inside, the worker samples from the learner's weights of when it was entered; gives metrics of the transfer.

        Afterwards the learner may have the device for itself.
        """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """``n`` completions for each prompt of token ids, by its index, in parts as they are done.

        The same seed, weights and number of a prompt (its index, if there are no ``numbers``) give the same samples,
        whichever prompts are beside it, up to the rounding of the engine.
        """

    def close(self) -> None:
        """Release processes and memory."""


class Reward(Protocol):
    """Scores responses; must be given hostile text safely."""

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each (item, response) pair, in order."""

    def close(self) -> None:
        """End worker processes."""
