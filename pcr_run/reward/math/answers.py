"""What an answer can be, once it has been read."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from pcr_run.reward.math.units import Unit


@dataclass(frozen=True)
class Value:
    """One number or expression, with its unit and the name it is given (``x`` in ``x = 5``), where stated.

    ``mixed``: made of several units (``1 hour 30 minutes``), so that the number alone says nothing.
    """

    expr: sympy.Basic
    unit: Unit | None = None
    name: str | None = None
    mixed: bool = False


@dataclass(frozen=True)
class Word:
    """An answer in words."""

    text: str


@dataclass(frozen=True)
class Many:
    """Several answers. ``kind``: ``list`` and ``set`` (unordered), a pair of brackets (ordered), ..."""

    kind: str
    parts: tuple[Answer, ...]
    name: str | None = None


@dataclass(frozen=True)
class Relation:
    """``left op 0`` with op one of ``=``, ``<``, ``<=``."""

    op: str
    left: sympy.Basic


@dataclass(frozen=True)
class Choice:
    """A choice of a test and what it says: ``(B) 42``."""

    letter: str
    answer: Answer


Answer = Value | Word | Many | Relation | Choice
