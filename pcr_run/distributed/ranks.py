"""The processes of one run, its ranks: sums over them. Alone, without a process group, everything is as it is."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from pcr_run.distributed.launch import local_rank

T = TypeVar("T")


def together() -> bool:
    """Whether this process belongs to a group (which may have one member)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Which of the ranks this is."""
    return dist.get_rank() if together() else 0


def size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if together() else 1


def first() -> bool:
    """Whether this is the rank that writes and speaks."""
    return rank() == 0


def total(values: Tensor) -> Tensor:
    """The sum over the ranks, in place; every rank gets the same bits."""
    if together():
        dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """The elementwise maximum over the ranks, in place."""
    if together():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def on_machine(value: T) -> T:
    """What the first rank on this machine says."""
    return everyones(value)[rank() - local_rank()] if together() else value


def everyones(value: T) -> list[T]:
    """What each rank says, in order; ``value`` may be anything that can be pickled."""
    if not together():
        return [value]
    found: list[T | None] = [None] * size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]
