"""Inequalities in one unknown as intervals."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from pcr_run.reward.math.answers import Answer, Many, Value
from pcr_run.reward.math.latex import UnparsedError

BRACKETS = ("()", "[)", "(]", "[]")


def one_sided(low: Answer | None, high: Answer | None, low_closed: bool, high_closed: bool, name: str) -> Many:
    """``low < name < high``, None where there is no bound."""
    left = "[" if low is not None and low_closed else "("
    right = "]" if high is not None and high_closed else ")"
    return Many(left + right, (low or Value(-sympy.oo), high or Value(sympy.oo)), name)


def absolute(inner: sympy.Basic, bound: sympy.Basic, inside: bool, closed: bool) -> Many | None:
    """``|inner| < bound`` (``inside``) or ``> bound`` for a linear ``inner``; None for others."""
    symbols = list(inner.free_symbols)
    if len(symbols) != 1 or not bound.is_number or not bool(bound > 0) or not inner.is_polynomial(symbols[0]):
        return None
    slope, rest = inner.coeff(symbols[0], 1), inner.subs(symbols[0], 0)
    if sympy.degree(inner, symbols[0]) != 1 or not slope.is_number or not rest.is_number or not slope.is_real:
        return None
    ends = sorted([(-bound - rest) / slope, (bound - rest) / slope], key=lambda end: float(sympy.N(end)))
    low, high, name = Value(ends[0]), Value(ends[1]), str(symbols[0])
    if inside:
        return one_sided(low, high, closed, closed, name)
    parts = one_sided(None, low, False, closed, name), one_sided(high, None, closed, False, name)
    return Many("union", parts, name)


def intersection(parts: Sequence[Answer]) -> Many | None:
    """The interval in which all hold; None where they are no intervals of one unknown."""
    if not all(isinstance(part, Many) and part.kind in BRACKETS and part.name for part in parts):
        return None
    intervals: list[Many] = list(parts)  # type: ignore[arg-type]
    if len({each.name for each in intervals}) != 1:
        return None
    low = max(intervals, key=lambda each: (_number(each.parts[0]), each.kind[0] == "("))
    high = min(intervals, key=lambda each: (_number(each.parts[1]), each.kind[1] == "]"))
    if _number(low.parts[0]) >= _number(high.parts[1]):
        raise UnparsedError("conditions that no number meets, or one alone")
    return Many(low.kind[0] + high.kind[1], (low.parts[0], high.parts[1]), low.name)


def _number(end: Answer) -> float:
    if not isinstance(end, Value) or (not end.expr.is_real and not end.expr.is_infinite):
        raise UnparsedError("a bound that is no number")
    return float(sympy.N(end.expr, 30))
