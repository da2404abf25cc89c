r"""Whether an answer equals the gold answer: exact mathematics, no tolerance.

An answer is first taken apart by structure (lists, tuples, sets, intervals, matrices, equations, units, words), then
its leaves are parsed by the LaTeX parser of math-verify and compared by SymPy. Runs in a worker process (worker.py):
SymPy may take any time on a hostile leaf.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from pcr_run.data import Verdict
from pcr_run.reward.math.latex import RefusedError, UnparsedError, closing, spell, split
from pcr_run.reward.math.units import Unit, number_unit, trailing_unit, units_agree

MAX_BITS = 20_000  # of an integer power in an answer


@dataclass(frozen=True)
class Value:
    """One number or expression, with its unit and the name it is given (``x`` in ``x = 5``), where stated."""

    expr: sympy.Basic
    unit: Unit | None = None
    name: str | None = None


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


Answer = Value | Word | Many | Relation


def equal(gold: str, answer: str) -> Verdict:
    """How an answer compares with the gold answer, both LaTeX or plain text without the box."""
    try:
        readings = _readings(gold)
    except (UnparsedError, RefusedError):
        return "error"
    try:
        claims = _readings(answer)
        return "correct" if any(_same(a, b) for a in readings for b in claims) else "wrong"
    except UnparsedError:
        return "unparsed"
    except RefusedError:
        return "refused"


def parses(gold: str) -> bool:
    """Whether a gold answer states a value that an answer can equal."""
    try:
        return any(_same(reading, reading) for reading in _readings(gold))
    except (UnparsedError, RefusedError):
        return False


@lru_cache(maxsize=4096)
def _readings(text: str) -> tuple[Answer, ...]:
    """What a text may mean: usually one thing; ``1,234`` is a number or a list."""
    text = spell(text)
    grouped = re.fullmatch(r"-?(?:\\?\$)?[1-9]\d{0,2}(,\d{3})+(\.\d+)?[^,;\d]*", text)
    if not grouped:
        return (_read(text),)
    number = (_read(text.replace(",", "")),)
    return number if grouped[0] != text or "." in text or not re.fullmatch(r"[\d,]+", text) else (*number, _read(text))


_NAME = re.compile(
    r"(?:[a-zA-Z]{1,20}|\\(?:theta|alpha|beta|lambda|phi)|\\text\{[a-zA-Z .]+\})(?:_\{?\w+\}?)?'?(?:\([a-z0-9]\))?"
)
_JOINERS = re.compile(r",?\s*(?:\\text\{\s*(?:,?\s*and|,?\s*or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))")
_FLIP = {">": "<", r"\geq": r"\leq"}


def _read(text: str) -> Answer:
    if not text:
        raise UnparsedError("empty")
    text = _JOINERS.sub(" , ", text)
    parts, _ = split(text, (",", ";"))
    if len(parts) > 1:
        return _flat("list", [_read(part) for part in parts])
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
    parts, ops = split(text, ("=", "<", ">", r"\leq", r"\geq"))
    if ops:
        return _relation(parts, ops)
    parts, _ = split(text, (":",))
    if len(parts) > 1:
        values = [_expression(part) for part in parts]
        if values[0] == 0:
            raise UnparsedError("a ratio to 0")
        return Many("ratio", tuple(Value(value / values[0]) for value in values))
    if r"\pm" in text or r"\mp" in text:
        upper = re.sub(r"\\pm", "+", re.sub(r"\\mp", "-", text))
        lower = re.sub(r"\\pm", "-", re.sub(r"\\mp", "+", text))
        return _flat("list", [_read(upper.lstrip("+ ")), _read(lower.lstrip("+ "))])
    return _bracketed(text) or _leaf(text)


def _flat(kind: str, parts: list[Answer]) -> Many:
    flat: list[Answer] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Many) and part.kind == "list" else (part,))
    return Many(kind, tuple(flat))


def _bracketed(text: str) -> Answer | None:
    """Tuples, intervals, sets, matrices and answers in redundant brackets; None for anything else."""
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Many("set", ())
    if text in (r"\mathbb{R}", r"\mathbb R"):
        return Many("()", (Value(-sympy.oo), Value(sympy.oo)))
    matrix = re.fullmatch(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", text)
    if matrix:
        rows = [split(row, ("&",))[0] for row in split(matrix[2].strip().removesuffix(r"\cr"), (r"\cr",))[0]]
        return Many("matrix", tuple(Many("row", tuple(_read(cell) for cell in row)) for row in rows))
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
        return Many("set", _distinct([_read(part) for part in parts]))
    if opening == "{" and close == "}":
        return _read(inner)
    if opening in "([" and close in ")]":
        if len(parts) > 1:
            return Many(opening + close, tuple(_read(part) for part in parts))
        return _read(inner) if opening + close == "()" else Many("[]", (_read(inner),))
    raise UnparsedError("brackets that do not match")


def _distinct(parts: list[Answer]) -> tuple[Answer, ...]:
    kept: list[Answer] = []
    for part in parts:
        if not any(_same(part, other) for other in kept):
            kept.append(part)
    return tuple(kept)


def _relation(parts: list[str], ops: list[str]) -> Answer:
    if set(ops) == {"="}:
        names = [part for part in parts if _NAME.fullmatch(part)]
        values = [part for part in parts if part not in names]
        if not names and len(values) == 2 and _free(values):
            left, right = (_expression(part) for part in values)
            return Relation("=", left - right)
        if not values:  # x = y
            names, values = names[:-1], names[-1:]
        answers = [_read(value) for value in values]
        if not all(_same(answers[0], other) for other in answers[1:]):
            raise UnparsedError("an equation that is not true")
        first, name = answers[0], names[0] if names else None
        if isinstance(first, Value):
            return Value(first.expr, first.unit, name)
        return Many(first.kind, first.parts, name) if isinstance(first, Many) else first
    if "=" in ops:
        raise UnparsedError("a mixed chain of relations")
    if all(op in _FLIP for op in ops):
        parts, ops = parts[::-1], [_FLIP[op] for op in reversed(ops)]
    if any(op in _FLIP for op in ops) or len(ops) > 2:
        raise UnparsedError("a mixed chain of relations")
    middle = parts[1] if len(parts) == 3 else next((part for part in parts if _NAME.fullmatch(part)), None)
    if middle is not None and _NAME.fullmatch(middle) and len(_free([p for p in parts if p is not middle])) == 0:
        place = parts.index(middle)
        low = _leaf(parts[place - 1]) if place > 0 else Value(-sympy.oo)
        high = _leaf(parts[place + 1]) if place + 1 < len(parts) else Value(sympy.oo)
        left = "[" if place > 0 and ops[place - 1] == r"\leq" else "("
        right = "]" if place + 1 < len(parts) and ops[place] == r"\leq" else ")"
        return Many(left + right, (low, high), middle)
    if len(parts) != 2:
        raise UnparsedError("a chain of relations")
    return Relation("<" if ops == ["<"] else "<=", _expression(parts[0]) - _expression(parts[1]))


def _free(parts: list[str]) -> set[sympy.Basic]:
    return set().union(*(_expression(part).free_symbols for part in parts))


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
        return _based(based[1], int(based[2]))
    rest, unit = number_unit(text)
    if unit is None:
        rest, unit = trailing_unit(text)
    expr = _expression(rest)
    if unit is not None and expr.free_symbols:
        raise UnparsedError("a unit after an expression with variables")
    if unit is None:
        return Value(expr)
    return Value(expr * sympy.Rational(unit.scale.numerator, unit.scale.denominator), unit if unit.name else None)


def _based(digits: str, base: int) -> Value:
    """A number with its base, which is kept as if it were a unit."""
    try:
        return Value(sympy.Integer(int(digits, base)), Unit(f"base {base}", base=base))
    except ValueError:
        raise UnparsedError("digits that are not of the base") from None


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
_MIXED = re.compile(r"(-?)\s*(\d+)(?:\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}|\s+(\d+)/(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_DECIMAL = re.compile(r"(\d*)\.(\d+)|(\d+)\.(?!\d)")
_PLAIN = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)


def _rational(text: str) -> sympy.Rational:
    if len(text) > 5000:
        raise RefusedError("a number too long")
    fraction = Fraction(text)
    return sympy.Rational(fraction.numerator, fraction.denominator)


def _fraction(match: re.Match[str]) -> str:
    whole, digits = match[1] or match[3] or "0", match[2] or ""
    return rf"(\frac{{{whole}{digits}}}{{1{'0' * len(digits)}}})"


def _repeating(match: re.Match[str]) -> str:
    whole, digits, period = match[1] or "0", match[2], match[3]
    scale = 10 ** len(digits)
    nines = 10 ** len(period) - 1
    return rf"(\frac{{{int(whole + digits) * nines + int(period)}}}{{{scale * nines}}})"


@lru_cache(maxsize=4096)
def _expression(text: str) -> sympy.Basic:
    """The exact value of one arithmetic or algebraic expression."""
    text = text.strip()
    if not text:
        raise UnparsedError("empty")
    if _NUMBER.fullmatch(text):
        return _rational(text)
    if mixed := _MIXED.fullmatch(text):
        sign, whole, *parts = mixed.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if not bottom:
            raise UnparsedError("division by zero")
        return (-1 if sign else 1) * (int(whole) + sympy.Rational(top, bottom))
    if re.search(r"(?<!_)\d\s+[\d.]|\\text|\\begin|\\in(?![a-z])|\\circ|[\d)}]\s*_|[%$,;?&#@:\"'`~]|\\\\", text):
        raise UnparsedError("no expression")
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", text):
        raise UnparsedError("words")
    closing("(" + text + ")", 0)
    text = re.sub(r"(\d)[eE]([-+]?\d{1,4})(?![\d.])", r"\1 \\cdot 10^{\2}", text)
    text = _DECIMAL.sub(_fraction, _REPEATING.sub(_repeating, text))
    try:
        expr = latex2sympy(text, normalization_config=_PLAIN, conversion_config=_CONVERSION)
    except (RecursionError, MemoryError):
        raise RefusedError("too large an expression") from None
    except Exception as problem:  # the parser raises bare Exception for what it cannot read
        raise UnparsedError(str(problem)[:100]) from None
    if not isinstance(expr, sympy.Expr):
        raise UnparsedError("no expression")
    _bounded(expr)
    expr = expr.doit().subs(sympy.Symbol("i"), sympy.I)
    if expr.has(sympy.nan, sympy.zoo, sympy.Float):
        raise UnparsedError("undefined")
    return expr


def _bounded(expr: sympy.Basic) -> None:
    """Refuse powers and factorials whose digits nobody wrote down."""
    for node in sympy.preorder_traversal(expr):
        if isinstance(node, sympy.Pow) and node.base.free_symbols and node.exp.is_number and abs(node.exp) > MAX_BITS:
            raise RefusedError("too large a power")
        if isinstance(node, sympy.Pow) and not node.free_symbols:
            base, exponent = (abs(sympy.N(part, 15)) for part in node.args)
            if sympy.nan in (base, exponent):
                raise UnparsedError("undefined")
            if exponent > 8 and base > 0 and exponent * abs(sympy.log(base).evalf(15)) > MAX_BITS:
                raise RefusedError("too large a power")
        if isinstance(node, sympy.factorial) and not node.free_symbols and abs(sympy.N(node.args[0], 15)) > 2000:
            raise RefusedError("too large a factorial")


def _same(gold: Answer, answer: Answer) -> bool:
    if isinstance(gold, Word) or isinstance(answer, Word):
        return _letters(gold) is not None and _letters(gold) == _letters(answer)
    if isinstance(gold, Value) and isinstance(answer, Value):
        return _same_value(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return gold.op == answer.op and _proportional(gold.left, answer.left, positive=gold.op != "=")
    if isinstance(gold, Relation) and isinstance(answer, Value):
        return _same(gold, _as_relation(answer))
    if isinstance(gold, Value) and isinstance(answer, Relation):
        return _same(_as_relation(gold), answer)
    if isinstance(gold, Many) and isinstance(answer, Many):
        return _same_many(gold, answer)
    return False


def _letters(answer: Answer) -> str | None:
    """An answer as a word, letters only."""
    if isinstance(answer, Word):
        return answer.text.casefold()
    if isinstance(answer, Value) and isinstance(answer.expr, sympy.Symbol):
        return str(answer.expr).casefold()
    return None


def _as_relation(value: Value) -> Answer:
    if value.name is None or value.unit or not re.fullmatch(r"[a-zA-Z]", value.name):
        return Word("")
    return Relation("=", sympy.Symbol(value.name) - value.expr)


def _same_value(gold: Value, answer: Value) -> bool:
    if gold.name and answer.name and gold.name != answer.name:
        left, right = _as_relation(gold), _as_relation(answer)
        if not (isinstance(left, Relation) and isinstance(right, Relation) and gold.expr.free_symbols):
            return False
        return _proportional(left.left, right.left, positive=False)
    if gold.unit and gold.unit.base and not answer.unit and answer.expr.is_Integer:  # left out, as a unit may be
        answer = _based(str(answer.expr), gold.unit.base)
    factor = units_agree(gold.unit, answer.unit)
    if factor is None:
        return False
    return same_expr(gold.expr, answer.expr * sympy.Rational(factor.numerator, factor.denominator))


def _same_many(gold: Many, answer: Many) -> bool:
    if gold.name and answer.name and gold.name != answer.name:
        return False
    unordered = {"list", "set"}
    kinds = {gold.kind, answer.kind}
    if kinds == {"list", "union"}:  # x < 1 or x > 2
        if not all(isinstance(part, Many) for part in gold.parts + answer.parts):
            return False
    elif len(kinds) > 1 and not kinds <= unordered:
        return False
    if len(gold.parts) != len(answer.parts):
        return False
    if gold.kind not in unordered | {"union"}:
        return all(_same(a, b) for a, b in zip(gold.parts, answer.parts, strict=True))
    left = list(answer.parts)
    for part in gold.parts:
        match = next((place for place, other in enumerate(left) if _same(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _proportional(a: sympy.Basic, b: sympy.Basic, positive: bool) -> bool:
    """Whether a = c b for a constant c that is not 0 (and positive)."""
    ratio = sympy.simplify(a / b) if b != 0 else sympy.nan
    if ratio.free_symbols or ratio in (0, sympy.nan, sympy.zoo):
        return False
    return not positive or bool(ratio > 0)


_POINTS = [sympy.Rational(p, q) for p, q in ((1729, 997), (355, 113), (577, 408), (89, 233), (271, 99), (41, 29))]


def same_expr(a: sympy.Basic, b: sympy.Basic) -> bool:
    """Exact equality: refuted by 60 digits at a few points, then proved by SymPy where it can."""
    if a == b:
        return True
    if a.is_Rational and b.is_Rational:
        return False
    if a.has(sympy.oo, -sympy.oo) or b.has(sympy.oo, -sympy.oo):
        return False
    difference = a - b
    symbols = sorted(difference.free_symbols, key=str)
    if a.free_symbols != b.free_symbols:
        return sympy.simplify(difference) == 0
    for shift in range(3 if symbols else 1):
        point = {name: _POINTS[(k + shift) % len(_POINTS)] + k // len(_POINTS) for k, name in enumerate(symbols)}
        value = sympy.N(difference.subs(point), 60, maxn=500)
        if not value.is_number:  # an undefined function
            break
        if value.has(sympy.nan, sympy.zoo) or abs(value) > sympy.Float("1e-40"):
            return False
    proof = difference.equals(0)
    return bool(proof) if proof is not None else sympy.simplify(difference) == 0
