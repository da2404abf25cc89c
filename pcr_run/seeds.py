"""Every random choice is a function of (seed, what it is for): nothing depends on what was drawn before.

So a resumed run draws what the uninterrupted one would have drawn, and runs that differ only in their resolver see the
same prompts and the same sampling seeds (common random numbers).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "rollout", step)``."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def take(items: Sequence[T], start: int, count: int, seed: int) -> list[T]:
    """Entries ``start .. start + count`` of an endless sequence of shuffled passes over ``items``."""
    out = []
    orders: dict[int, list[int]] = {}
    for position in range(start, start + count):
        epoch, index = divmod(position, len(items))
        if epoch not in orders:
            orders[epoch] = list(range(len(items)))
            random.Random(derive(seed, "order", epoch)).shuffle(orders[epoch])
        out.append(items[orders[epoch][index]])
    return out
