"""What a value of the configuration may be, and how to say so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass(frozen=True)
class Right:
    """Which values a key may have, and how to say so. ``null``, where the type allows it, is always right."""

    holds: Callable[[Any], bool]
    text: str


def at_least(low: float) -> Right:
    """A number that is not smaller, and finite."""
    return Right(lambda value: low <= value < math.inf, f"a number of at least {low:g}")


def between(low: float, high: float) -> Right:
    """A number of a closed interval."""
    return Right(lambda value: low <= value <= high, f"a number from {low:g} to {high:g}")


def matching(pattern: str, text: str) -> Right:
    """A string that a regular expression matches as a whole."""
    return Right(lambda value: re.fullmatch(pattern, value) is not None, text)


COUNT, SHARE = at_least(1), between(0, 1)
POSITIVE = Right(lambda value: 0 < value < math.inf, "a number above 0")
ABOVE_1 = Right(lambda value: 1 < value < math.inf, "a number above 1")
ABOVE_0_TO_1 = Right(lambda value: 0 < value <= 1, "a number above 0, at most 1")
TAGS = Right(lambda tags: len(tags) == 2 and all(tags), "an opening and a closing tag, like [<think>,</think>]")
MOMENTS = Right(lambda b: len(b) == 2 and all(0 <= x < 1 for x in b), "two numbers from 0 to below 1")


def doc(text: str, default: Any = MISSING, right: Right | tuple[str, ...] | str | None = None) -> Any:
    """A field with its meaning and its right values: a test, names, or ``module:TABLE`` whose keys are the names."""
    metadata = {"doc": text, "right": right}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
