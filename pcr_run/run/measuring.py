"""A policy measured piece by piece: what was measured before comes from the cache, the rest is measured now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from transformers import PreTrainedModel

from pcr_run.data import RolloutWorker
from pcr_run.evaluation import Cache, MissingError, Piece, identity, record
from pcr_run.model.chat import Chat
from pcr_run.rollout import end_ids
from pcr_run.schema import Config


@dataclass(frozen=True)
class Found:
    """A piece's value, the seconds that it took now, and whether it was there."""

    piece: Piece
    value: Any
    seconds: float
    cached: bool


def measured(
    pieces: Sequence[Piece], worker: Callable[[], RolloutWorker], step: int, cache: Cache | None
) -> Iterator[Found]:
    """The values of all pieces as they come: those in the cache, those that are sampled, then the others.

    The worker is asked for, and gets the policy's weights, only where something is left to sample.
    """
    left = []
    for piece in pieces:
        start = perf_counter()
        try:
            if cache is None:
                raise MissingError(piece.label)
            yield Found(piece, cache.get(piece), perf_counter() - start, cached=True)
        except MissingError:
            left.append(piece)
    sampled = [piece for piece in left if piece.sampled]
    if sampled:
        sampler = worker()
        with sampler.synced(step):
            for piece in sampled:
                yield _now(piece, sampler, cache)
    for piece in left:
        if not piece.sampled:
            yield _now(piece, None, cache)


def _now(piece: Piece, worker: RolloutWorker | None, cache: Cache | None) -> Found:
    start = perf_counter()
    if cache is None:
        value, cached = piece.measure(worker), False
    else:
        value, cached = cache.measured(piece, lambda: piece.measure(worker))
    return Found(piece, value, perf_counter() - start, cached)


def evaluation_line(step: int, pieces: Sequence[Piece], found: Sequence[Found]) -> dict[str, Any]:
    """A line of evaluations.jsonl: the values in the order of the pieces, their seconds, and which were there."""
    by_label = {(each.piece.section, each.piece.label): each for each in found}
    ordered = [by_label[piece.section, piece.label] for piece in pieces]
    cached = [each.piece.label for each in ordered if each.cached]
    return {
        "step": step,
        **record((each.piece, each.value) for each in ordered),
        "time/evaluation": sum(each.seconds for each in found),
        **({"perf/cached": cached} if cached else {}),
    }


def subject(cfg: Config, model: PreTrainedModel, chat: Chat) -> dict[str, Any]:
    """All that every measurement of a policy depends on: weights, sampling, judges, machine, code."""
    rollout = cfg.rollout
    return {
        "weights": identity.weights(model),
        "tokenizer": identity.tokenizer(chat.tokenizer),
        "thoughts": [chat.opened, *chat.thinking],
        "worker": [rollout.name, rollout.batch if rollout.name == "hf" else rollout.engine],
        "end": end_ids(model, chat.tokenizer),
        "judge": [cfg.reward.seconds, cfg.reward.unboxed, dataclasses.asdict(cfg.sandbox)],
        "machine": identity.machine(model.device),
        "code": identity.code(),
    }
