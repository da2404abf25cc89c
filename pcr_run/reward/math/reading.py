r"""From the text of an answer to what it says: lists, tuples, sets, intervals, matrices, equations, units, words.

An answer is taken apart by structure; its leaves are parsed by the LaTeX parser of math-verify (expression.py).
"""

from __future__ import annotations

import re
from functools import lru_cache

import sympy

from pcr_run.reward.math.answers import Answer, Choice, Many, Relation, Value, Word
from pcr_run.reward.math.comparison import based_number, same
from pcr_run.reward.math.expression import expression
from pcr_run.reward.math.intervals import absolute, intersection, one_sided
from pcr_run.reward.math.latex import GREEK, UnparsedError, closing, spell, split
from pcr_run.reward.math.names import PLACEHOLDER, symbols
from pcr_run.reward.math.units import mixed, number_unit, trailing_unit


@lru_cache(maxsize=4096)
def readings(text: str) -> tuple[Answer, ...]:
    """What a text may mean: usually one thing; ``1,234`` is a number or a list."""
    text = symbols(spell(text))
    grouped = re.fullmatch(r"-?(?:\\?\$)?[1-9]\d{0,2}(,\d{3})+(\.\d+)?[^,;\d]*", text)
    if not grouped:
        return (_read(text),)
    number = (_read(text.replace(",", "")),)
    return number if grouped[0] != text or "." in text or not re.fullmatch(r"[\d,]+", text) else (*number, _read(text))


_LETTER = rf"(?:[a-zA-Z]{{1,20}}|\\(?:{GREEK.replace(' ', '|')})|Q_\{{\d+\}}|\\text\{{[a-zA-Z .]+\}})"
_ARGUMENT = r"(?:[a-zA-Z0-9]|Q_\{\d+\})"
_NAME = re.compile(
    rf"{_LETTER}(?:\s*\^\s*\{{\s*-1\s*\}})?"  # f^{-1}
    rf"(?:\s*\(\s*{_ARGUMENT}(?:\s*(?:,|\||\\cap|\\cup)\s*{_ARGUMENT})*\s*\)|\s*\[\s*[A-Z]\s*\])?"  # f(x), P(A|B), E[X]
    r"|(?:m\s*)?\\(?:angle|measuredangle|triangle)\s*[A-Z](?:\s*[A-Z]){0,2}|\\overline\s*\{\s*[A-Z]{2}\s*\}|\|[A-Z]{2}\|"
)
_NAMES = re.compile(rf"\(\s*{_LETTER}(?:\s*,\s*{_LETTER})+\s*\)")  # (x, y) in (x, y) = (5, 8)
_AND = re.compile(r",?\s*(?:\\text\{\s*,?\s*and\s*\}|(?<![a-zA-Z\\])and(?![a-zA-Z]))\s*")
_JOINERS = re.compile(r",?\s*(?:\\text\{\s*(?:,?\s*and|,?\s*or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))")
_CHOICE = re.compile(r"(?:\\text\{\s*(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])\s*\}|\(([A-J])\)(?=\s))\s*[.:]?\s*(\S.*)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_FLIP = {">": "<", r"\geq": r"\leq"}


def _read(text: str) -> Answer:
    if not text:
        raise UnparsedError("empty")
    if choice := _CHOICE.fullmatch(text):
        return Choice(next(filter(None, choice.groups())), _read(choice[4]))
    if found := mixed(text):
        total, unit = found
        return Value(sympy.Rational(total.numerator, total.denominator), unit, mixed=True)
    if (both := _all_hold(text)) is not None:
        return both
    text = _JOINERS.sub(" , ", text)
    parts, _ = split(text, (",", ";"))
    if len(parts) > 1:
        return _list([_read(part) for part in parts])
    text = parts[0]
    parts, _ = split(text, (r"\in",))
    if len(parts) == 2 and _NAME.fullmatch(parts[0]):
        inner = _read(parts[1])
        if not isinstance(inner, Many):
            raise UnparsedError("an element of no set")
        return Many(inner.kind, inner.parts, parts[0])
    parts, _ = split(text, (r"\cup",))
    if len(parts) > 1:
        return Many("union", tuple(_read(part) for part in parts))
    parts, ops = split(text, ("=", "<", ">", r"\leq", r"\geq", r"\approx"))
    if ops:
        return _relation(parts, ops)
    parts, _ = split(text, (":",))
    if len(parts) > 1:
        return _ratio(text, parts)
    if r"\pm" in text or r"\mp" in text:
        upper = re.sub(r"\\pm", "+", re.sub(r"\\mp", "-", text))
        lower = re.sub(r"\\pm", "-", re.sub(r"\\mp", "+", text))
        return _flat("list", [_read(upper.lstrip("+ ")), _read(lower.lstrip("+ "))])
    return _bracketed(text) or _leaf(text)


def _all_hold(text: str) -> Answer | None:
    r"""``x \geq 5 and x < 7`` as one interval; None for other texts."""
    parts = _AND.split(text)
    if len(parts) < 2 or not all(split(part, ("<", ">", r"\leq", r"\geq"))[1] for part in parts):
        return None
    return intersection([_read(part) for part in parts])


def _list(parts: list[Answer]) -> Many:
    """Answers side by side; where each is the value of another name their order is that of the names."""
    names = [part.name for part in parts if isinstance(part, Value | Many)]
    named = len(names) == len(parts) and all(names) and len(set(names)) == len(names)
    return Many("named", tuple(parts)) if named else _flat("list", parts)


def _flat(kind: str, parts: list[Answer]) -> Many:
    flat: list[Answer] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Many) and part.kind == "list" else (part,))
    return Many(kind, tuple(flat))


def _ratio(text: str, parts: list[str]) -> Answer:
    """Ratios are equal up to a factor; with a 0 in it a text can only be a time of day, which equals itself alone."""
    values = [expression(part) for part in parts]
    if 0 not in values:
        return Many("ratio", tuple(Value(value / values[0]) for value in values))
    clock = _CLOCK.fullmatch(text.replace(" ", ""))
    if clock is None or int(clock[1]) > 24 or int(clock[2]) > 59:
        raise UnparsedError("a ratio with 0")
    return Many("clock", (Value(sympy.Integer(int(clock[1]))), Value(sympy.Integer(int(clock[2])))))


_MATRIX = re.compile(r"(.*?)\\begin\{([pbB]?matrix|vmatrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\2\}")


def _bracketed(text: str) -> Answer | None:
    """Tuples, intervals, sets, matrices and answers in redundant brackets; None for anything else."""
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Many("set", ())
    if text in (r"\mathbb{R}", r"\mathbb R"):
        return Many("()", (Value(-sympy.oo), Value(sympy.oo)))
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(*matrix.groups())
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    if opening not in ("(", "[", "{", r"\{"):
        return None
    end = closing(text, 0)
    close = text[end:]
    inner = text[len(opening) : end].strip()
    if close not in (")", "]", "}", r"\}"):
        return None  # (1+x)(2+y)
    parts, _ = split(inner, (",", ";"))
    if opening == r"\{" and close == r"\}":
        return Many("set", tuple(_read(part) for part in parts))
    if opening == "{" and close == "}":
        return _read(inner)
    if opening in "([" and close in ")]":
        if len(parts) > 1:
            return Many(opening + close, tuple(_read(part) for part in parts))
        return _read(inner) if opening + close == "()" else Many("[]", (_read(inner),))
    raise UnparsedError("brackets that do not match")


def _matrix(factor: str, kind: str, body: str) -> Answer:
    """A matrix, times what stands before it; ``vmatrix`` is a determinant, a number."""
    rows = [split(row, ("&",))[0] for row in split(body.strip().removesuffix(r"\cr"), (r"\cr",))[0]]
    scale = sympy.Integer({"": 1, "-": -1}[factor]) if factor in ("", "-") else expression(factor.rstrip(r"\cdot "))
    if kind == "vmatrix":
        if len(rows) > 6 or any(len(row) != len(rows) for row in rows):
            raise UnparsedError("no determinant")
        return Value(scale * sympy.Matrix([[expression(cell) for cell in row] for row in rows]).det(method="berkowitz"))
    cells = [[_read(cell) for cell in row] for row in rows]
    if scale != 1:
        cells = [[Value(scale * _plain(cell)) for cell in row] for row in cells]
    return Many("matrix", tuple(Many("row", tuple(row)) for row in cells))


def _plain(cell: Answer) -> sympy.Basic:
    if not isinstance(cell, Value) or cell.unit or cell.name:
        raise UnparsedError("a factor before a matrix of no numbers")
    return cell.expr


def _relation(parts: list[str], ops: list[str]) -> Answer:
    if r"\approx" in ops:
        return _rounded(parts, ops)
    if set(ops) == {"="}:
        return _equation(parts)
    if "=" in ops:
        raise UnparsedError("a mixed chain of relations")
    if all(op in _FLIP for op in ops):
        parts, ops = parts[::-1], [_FLIP[op] for op in reversed(ops)]
    if any(op in _FLIP for op in ops) or len(ops) > 2:
        raise UnparsedError("a mixed chain of relations")
    middle = parts[1] if len(parts) == 3 else next((part for part in parts if _NAME.fullmatch(part)), None)
    if middle is not None and _NAME.fullmatch(middle) and not _free([p for p in parts if p is not middle]):
        place = parts.index(middle)
        low = _leaf(parts[place - 1]) if place > 0 else None
        high = _leaf(parts[place + 1]) if place + 1 < len(parts) else None
        return one_sided(low, high, place > 0 and ops[place - 1] == r"\leq", ops[-1] == r"\leq", middle)
    if len(parts) != 2:
        raise UnparsedError("a chain of relations")
    for side, inside in ((0, True), (1, False)):  # |x| < 3, 3 < |x|
        if parts[side].startswith("|") and parts[side].endswith("|") and "|" not in parts[side][1:-1]:
            bound = expression(parts[1 - side])
            found = absolute(expression(parts[side][1:-1]), bound, inside, closed=ops == [r"\leq"])
            if found is not None:
                return found
    return Relation("<" if ops == ["<"] else "<=", expression(parts[0]) - expression(parts[1]))


def _equation(parts: list[str]) -> Answer:
    """``x = 5``, ``x = 2 + 3 = 5``, ``(x, y) = (5, 8)`` as values with a name; other equations as relations."""
    if len(parts) == 2 and (names := _NAMES.fullmatch(parts[0])):
        inner = _read(parts[1])
        order = [name.strip() for name in names[0][1:-1].split(",")]
        if not isinstance(inner, Many) or inner.kind != "()" or len(inner.parts) != len(order):
            raise UnparsedError("unknowns without as many values")
        by_name = sorted(zip(order, inner.parts, strict=True), key=lambda pair: pair[0])
        return Many("()", tuple(value for _, value in by_name), ",".join(sorted(order)))
    named = [part for part in parts if _NAME.fullmatch(part)]
    values = [part for part in parts if part not in named]
    if not named and len(values) == 2 and _free(values):
        left, right = (expression(part) for part in values)
        return Relation("=", left - right)
    if not values:  # x = y
        named, values = named[:-1], named[-1:]
    answers = [_read(value) for value in values]
    if not all(same(answers[0], other) for other in answers[1:]):
        raise UnparsedError("an equation that is not true")
    first, name = answers[0], re.sub(r"\s", "", named[0]) if named else None
    if isinstance(first, Value):
        return Value(first.expr, first.unit, name, first.mixed)
    return Many(first.kind, first.parts, name) if isinstance(first, Many) else first


def _rounded(parts: list[str], ops: list[str]) -> Answer:
    r"""``\frac{3}{56} \approx 0.0536``: the exact value is the answer, if the decimal after it is near."""
    *before, decimal = parts
    if ops[-1] != r"\approx" or ops.count(r"\approx") > 1:
        raise UnparsedError("a chain of approximations")
    exact = _read(before[0]) if len(before) == 1 else _relation(before, ops[:-1])
    digits = re.fullmatch(r"-?\s*\d*\.?(\d*)", decimal)
    if not isinstance(exact, Value) or not exact.expr.is_number or digits is None or not decimal.strip(" -."):
        raise UnparsedError("an approximation of no number, or by none")
    shown, unit = expression(decimal.replace(" ", "")), sympy.Rational(1, 10 ** len(digits[1]))
    off, cut = sympy.N(exact.expr - shown, 30), sympy.N(abs(exact.expr) - abs(shown), 30)
    if not (abs(off) <= unit / 2 or 0 <= cut < unit):  # rounded, or the rest left out
        raise UnparsedError("an approximation that is not near")
    return exact


def _free(parts: list[str]) -> set[sympy.Basic]:
    return set().union(*(expression(part).free_symbols for part in parts))


_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*|[A-Za-z]{3,} \d{1,4}")
_LETTERS = re.compile(r"[A-Za-z]{3,}(?: \d{1,4})?|no|No")


def _leaf(text: str) -> Answer:
    unwrapped = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if unwrapped:
        inner = unwrapped[1].strip()
        inner = inner[1:-1] if re.fullmatch(r"\([A-Za-z]\)", inner) else inner
        if len(inner) > 1 and _WORDS.fullmatch(inner):
            return Word(" ".join(inner.split()))
        return _read(inner)
    if _LETTERS.fullmatch(text):
        return Word(text)
    if based := re.fullmatch(r"(-?[0-9][0-9A-F]*)_\{?(\d{1,2})\}?", text):
        return based_number(based[1], int(based[2]))
    rest, unit = number_unit(text)
    if unit is None and (r"\text" in text or not PLACEHOLDER.search(text)):
        rest, unit = trailing_unit(text)
    expr = expression(rest)
    if unit is not None and expr.free_symbols:
        raise UnparsedError("a unit after an expression with variables")
    if unit is None:
        return Value(expr)
    return Value(expr * sympy.Rational(unit.scale.numerator, unit.scale.denominator), unit if unit.name else None)
