"""Whether two answers say the same, part by part."""

from __future__ import annotations

import re

import sympy

from pcr_run.reward.math.answers import Answer, Choice, Many, Relation, Value, Word
from pcr_run.reward.math.expression import expression
from pcr_run.reward.math.latex import UnparsedError
from pcr_run.reward.math.proof import same_expr
from pcr_run.reward.math.units import Unit, units_agree

UNORDERED = ("list", "set")


def same(gold: Answer, answer: Answer) -> bool:
    """Whether two answers say the same; what the gold answer leaves out the other may state."""
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return _same_choice(gold, answer)
    if isinstance(gold, Word) or isinstance(answer, Word):
        return _letters(gold) is not None and _letters(gold) == _letters(answer)
    if isinstance(gold, Value) and isinstance(answer, Value):
        return _same_value(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return gold.op == answer.op and _proportional(gold.left, answer.left, positive=gold.op != "=")
    if isinstance(gold, Relation) and isinstance(answer, Value):
        return same(gold, _as_relation(answer))
    if isinstance(gold, Value) and isinstance(answer, Relation):
        return same(_as_relation(gold), answer)
    if isinstance(gold, Many) and isinstance(answer, Many):
        return _same_many(gold, answer)
    return False


def _same_choice(gold: Answer, answer: Answer) -> bool:
    """A choice with its value: both must agree where both are stated."""
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return gold.letter == answer.letter and same(gold.answer, answer.answer)
    choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
    assert isinstance(choice, Choice)
    if isinstance(other, Value) and other.expr == sympy.Symbol(choice.letter):
        return True
    return same(choice.answer, other) if choice is gold else same(other, choice.answer)


def _letters(answer: Answer) -> str | None:
    """An answer as a word, letters only."""
    if isinstance(answer, Word):
        return answer.text.casefold()
    if isinstance(answer, Value) and isinstance(answer.expr, sympy.Symbol):
        return str(answer.expr).casefold()
    return None


def _as_relation(value: Value) -> Answer:
    name = None if value.name is None or value.unit else re.sub(r"\s", "", value.name)
    if name is None or not re.fullmatch(r"[a-zA-Z]|Q_\{\d+\}|\\[a-zA-Z]+", name):
        return Word("")
    return Relation("=", expression(name) - value.expr)


def _same_value(gold: Value, answer: Value) -> bool:
    if gold.name and answer.name and gold.name != answer.name:
        left, right = _as_relation(gold), _as_relation(answer)
        if not (isinstance(left, Relation) and isinstance(right, Relation) and gold.expr.free_symbols):
            return False
        return _proportional(left.left, right.left, positive=False)
    if gold.mixed and not answer.unit:
        return False
    if gold.unit and gold.unit.base and not answer.unit and answer.expr.is_Integer:  # left out, as a unit may be
        answer = based_number(str(answer.expr), gold.unit.base)
    factor = units_agree(gold.unit, answer.unit)
    if factor is None:
        return False
    return same_expr(gold.expr, answer.expr * sympy.Rational(factor.numerator, factor.denominator))


def _same_many(gold: Many, answer: Many) -> bool:
    if gold.kind == "named":
        return _same_named(gold, answer)
    if answer.kind == "named":
        ordered = tuple(sorted(answer.parts, key=lambda part: str(getattr(part, "name", ""))))
        answer = Many("()" if gold.kind == "()" else "list", ordered)
    if gold.name and answer.name and gold.name != answer.name:
        return False
    kinds = {gold.kind, answer.kind}
    if kinds == {"list", "union"}:  # x < 1 or x > 2
        if not all(isinstance(part, Many) for part in gold.parts + answer.parts):
            return False
    elif len(kinds) > 1 and not kinds <= set(UNORDERED):
        return False
    left, right = (_distinct(each.parts) if each.kind == "set" else each.parts for each in (gold, answer))
    if len(left) != len(right):
        return False
    if gold.kind in (*UNORDERED, "union"):
        return _same_in_any_order(left, right)
    return all(same(a, b) for a, b in zip(left, right, strict=True))


def _same_named(gold: Many, answer: Many) -> bool:
    """Values of different names: by name in any order, or without names in the same order, but not as a set."""
    if len(gold.parts) != len(answer.parts):
        return False
    if answer.kind == "named":
        return _same_in_any_order(gold.parts, answer.parts)
    if answer.kind not in ("list", "()") or (answer.name and answer.kind == "list"):
        return False
    return all(same(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))


def _same_in_any_order(gold: tuple[Answer, ...], answer: tuple[Answer, ...]) -> bool:
    left = list(answer)
    for part in gold:
        match = next((place for place, other in enumerate(left) if same(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _distinct(parts: tuple[Answer, ...]) -> tuple[Answer, ...]:
    kept: list[Answer] = []
    for part in parts:
        if not any(same(part, other) for other in kept):
            kept.append(part)
    return tuple(kept)


def _proportional(a: sympy.Basic, b: sympy.Basic, positive: bool) -> bool:
    """Whether a = c b for a constant c that is not 0 (and positive)."""
    ratio = sympy.cancel(sympy.together(a / b)) if b != 0 else sympy.nan
    ratio = sympy.simplify(ratio) if ratio.free_symbols else ratio
    if ratio.free_symbols or ratio in (0, sympy.nan, sympy.zoo):
        return False
    return not positive or bool(ratio > 0)


def based_number(digits: str, base: int) -> Value:
    """A number with its base, which is kept as if it were a unit."""
    try:
        return Value(sympy.Integer(int(digits, base)), Unit(f"base {base}", base=base))
    except ValueError:
        raise UnparsedError("digits that are not of the base") from None
