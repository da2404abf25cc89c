"""One arithmetic or algebraic expression in LaTeX as an exact SymPy expression."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from pcr_run.reward.math.latex import RefusedError, TooLargeError, UnparsedError, closing
from pcr_run.reward.math.names import placeholder

MAX_BITS = 20_000  # of an integer power in an answer
MAX_DEGREE = 20_000  # of a power of a name

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
_MIXED = re.compile(r"(-?)\s*(\d+)(?:\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}|\s+(\d+)/(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_DECIMAL = re.compile(r"(\d*)\.(\d+)|(\d+)\.(?!\d)")
_ROOT = re.compile(r"\\sqrt\s*\[\s*(\d{1,3})\s*\]\s*(?=\{)")
_PLAIN = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)


@lru_cache(maxsize=4096)
def expression(text: str) -> sympy.Basic:
    """The exact value; raises UnparsedError for what is no expression, RefusedError for what is too large."""
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
    if re.search(
        r"(?<!_)\d\s+[\d.]|\\text|\\begin|\\in(?![a-z])|\\circ|\\approx|\\angle|[\d)}]\s*_(?!\{\d)|[%$,;?&#@:\"'`~]|\\\\",
        text,
    ):
        raise UnparsedError("no expression")
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", text):
        raise UnparsedError("words")
    closing("(" + text + ")", 0)
    roots: dict[sympy.Symbol, sympy.Basic] = {}
    text = _odd_roots(text, roots)
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
    if expr.has(sympy.Derivative, sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product):
        raise UnparsedError("an operation to be carried out")  # d/dx of a name would be 0
    _bounded(expr)
    expr = expr.doit().subs(sympy.Symbol("i"), sympy.I).subs(roots)
    if expr.has(sympy.nan, sympy.zoo, sympy.Float):
        raise UnparsedError("undefined")
    return expr


def _odd_roots(text: str, roots: dict[sympy.Symbol, sympy.Basic]) -> str:
    """Odd roots of negative numbers are real; the parser takes the principal root. Innermost roots come first."""
    while matches := list(_ROOT.finditer(text)):
        match = matches[-1]
        end = closing(text, match.end())
        degree, inner = int(match[1]), text[match.end() + 1 : end]
        if not degree:
            raise UnparsedError("a root of degree 0")
        radicand = expression(inner).subs(roots)
        _bounded(radicand)
        negative = degree % 2 == 1 and radicand.is_number and bool(sympy.im(radicand) == 0) and bool(radicand < 0)
        root = -sympy.root(-radicand, degree) if negative else sympy.root(radicand, degree)
        name = placeholder(f"root {degree} {inner}")
        roots[sympy.Symbol(name)] = root
        text = f"{text[: match.start()]}{name}{text[end + 1 :]}"
    return text


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


def _bounded(expr: sympy.Basic) -> None:
    """Refuse powers and factorials whose digits nobody wrote down."""
    for node in sympy.preorder_traversal(expr):
        if isinstance(node, sympy.Pow) and node.base.free_symbols and node.exp.is_number and abs(node.exp) > MAX_DEGREE:
            raise RefusedError("too large a power")
        if isinstance(node, sympy.Pow) and not node.free_symbols:
            base, exponent = (abs(sympy.N(part, 15)) for part in node.args)
            if sympy.nan in (base, exponent):
                raise UnparsedError("undefined")
            if exponent > 8 and base > 0 and exponent * abs(sympy.log(base).evalf(15)) > MAX_BITS:
                raise TooLargeError("too large a power")
        if isinstance(node, sympy.factorial) and not node.free_symbols and abs(sympy.N(node.args[0], 15)) > 2000:
            raise RefusedError("too large a factorial")
