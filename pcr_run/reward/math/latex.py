r"""Puts an answer's text into one spelling before it is parsed, and refuses what has no business in an answer.

Only commands of a fixed list pass, so ``\phantom{42}``, ``\neq 42`` or a LaTeX comment cannot hide anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

MAX_LENGTH = 2_000
MAX_DEPTH = 30


class UnparsedError(ValueError):
    """The text states no value."""


class RefusedError(ValueError):
    """The text is longer, deeper or larger than an answer can be."""


class TooLargeError(RefusedError):
    """A number that is well defined but has more digits than can be computed with."""


_UNICODE = {
    **dict(zip("−–—﹣－", "-----", strict=True)),
    **dict(zip("（），．：％＋＝［］｛｝", "(),.:%+=[]{}", strict=True)),
    "\u00a0": " ",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": r"\div ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∅": r"\emptyset ",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    **{digit: f"^{{{value}}}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{digit: f"_{{{value}}}" for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "√": r"\sqrt ",
}


def _without_thin_spaces(match: re.Match[str]) -> str:
    return re.sub(r"\\[,:]", "", match[0])


_SPELLING: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\\\(?:\s*\[[^\]]*\])?", r"\\cr "),  # a row's end, before its second backslash is taken for a command
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    (r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy|sp)\.log(?=\s*\()", r"\\ln "),
    (r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy|sp)\.log10(?=\s*\()", r"\\log "),
    (r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy|sp)\.(?=[a-z])", ""),  # code where LaTeX was meant
    (r"\$\s+\$", " "),  # a formula that was cut in two
    # A thin space separates groups of three digits; anywhere else between digits it is a space.
    (r"(?<![\d.,])(-?\d{1,3}(?:\\[,:]\d{3})+)(?!\d)", _without_thin_spaces),
    (r"(?<=\d)\\[,:](?=\d)", " "),
    (r",\\!\s*", ","),
    (r"\\(?:mathrm|operatorname|rm)\s*\{\s*([ei])\s*\}", r" \1 "),  # an upright e is e
    (r"\\[lr]angle(?![a-zA-Z])", lambda match: "(" if match[0] == "\\langle" else ")"),
    (r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}", r"\\binom{\1}{\2}"),
    (r"(\w+)\s*\\choose\s*(\w+)", r"\\binom{\1}{\2}"),
    (r"\\(?:left|right|[bB]igg?[lrm]?|limits|displaystyle|textstyle|mathopen|mathclose)(?![a-zA-Z])", ""),
    (r"\{,\}", ","),
    (r"\\[,!:]", ""),
    (r"\\[; \n]|~|\\q?quad(?![a-zA-Z])|\\(?:thin|med|thick)?space(?![a-zA-Z])", " "),
    (r"\\(?:mathrm|mbox|textbf|mathbf|textit|textrm|textsf|operatorname|rm|boldsymbol|hbox)\s*\{", r"\\text{"),
    (r"\\text\{\s*(-?\d+(?:\.\d+)?)\s*\}", r" \1 "),
    (r"\\l?vert(?![a-zA-Z])|\\rvert(?![a-zA-Z])|\\mid(?![a-zA-Z])", "|"),
    (r"\\le(?:q|qslant)?(?![a-zA-Z])|<=", r"\\leq "),
    (r"\\ge(?:q|qslant)?(?![a-zA-Z])|>=", r"\\geq "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\(?:degree|deg)(?![a-zA-Z])", r"^\\circ "),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", r"^\\circ "),
    (r"\\(?:varnothing|empty)(?![a-zA-Z])", r"\\emptyset "),
    (r"\*\*", "^"),
    (r"\\ast(?![a-zA-Z])", "*"),
    (r"\\(frac|binom)\s*([0-9])\s*([0-9])", r"\\\1{\2}{\3}"),
    (r"\\(frac|binom)\s*([0-9])\s*\{", r"\\\1{\2}{"),
    (r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
    (r"_\s*(\{\s*)?\\(max|min)(?![a-zA-Z])(?(1)\s*\})", r"_{\2}"),
    (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\\a-zA-Z])(arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp)(?=\s*[\\({0-9])", r"\\\1 "),
    (r"(?<![\\a-zA-Z])a(sin|cos|tan)(?=\s*[\\({])", r"\\arc\1 "),
    (r"\\thickapprox(?![a-zA-Z])|\\simeq(?![a-zA-Z])|\\approxeq(?![a-zA-Z])|≈", r"\\approx "),
]
_SPELLING_RE = [(re.compile(pattern), new) for pattern, new in _SPELLING]

GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega hbar ell"
)
ACCENTS = "dot ddot hat bar vec tilde widehat widetilde overrightarrow"
DECORATIONS = "prime odot oplus ast star dagger parallel perp"
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp"
_STRUCTURE = "cr text begin end leq geq in cup cap pm mp circ emptyset mathbb infty pi frac sqrt cdot times div binom"
_NAMES = f"{GREEK} {ACCENTS} {DECORATIONS} partial angle triangle measuredangle approx"
_COMMANDS = frozenset(f"{_FUNCTIONS} {_NAMES} {_STRUCTURE} lfloor rfloor lceil rceil overline".split())
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_SYMBOLS = frozenset("{}%$\\")


def spell(text: str) -> str:
    """The text in one spelling; raises UnparsedError for foreign commands, RefusedError for monsters."""
    if len(text) > MAX_LENGTH:
        raise RefusedError("longer than an answer")
    text = "".join(_UNICODE.get(char) or _digit(char) for char in text).strip()
    while (inner := _without_delimiters(text)) != text:
        text = inner
    for pattern, new in _SPELLING_RE:
        text = pattern.sub(new, text)
    text = _plain_root(text)
    for command in _COMMAND.findall(text):
        if command not in _COMMANDS and command not in _SYMBOLS:
            raise UnparsedError(f"unknown command \\{command}")
    if not text.isascii():
        raise UnparsedError("unknown character")
    return re.sub(r"\s+", " ", text).strip().rstrip(".").rstrip()


def _digit(char: str) -> str:
    """Digits of any script as ASCII."""
    value = None if char.isascii() else unicodedata.decimal(char, None)
    return char if value is None else str(value)


def _without_delimiters(text: str) -> str:
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(start) : -len(end)]
        if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end) and start not in inner:
            return inner.strip()
    return text


def _plain_root(text: str) -> str:
    r"""``sqrt(2)`` and ``\sqrt (2)`` as ``\sqrt{2}``."""
    pattern = re.compile(r"(?:\\|(?<![a-zA-Z]))sqrt\s*\(")
    while match := pattern.search(text):
        end = closing(text, match.end() - 1)
        text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end]}}}{text[end + 1 :]}"
    return text


PAIRS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)


def closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at ``start``; round and square ones may close each other."""
    depth = 0
    for token in TOKEN.finditer(text, start):
        if token[0] in ("(", "[", "{", r"\{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise RefusedError("nested too deeply")
        elif token[0] in (")", "]", "}", r"\}"):
            depth -= 1
            if depth == 0:
                return token.start()
    raise UnparsedError("unbalanced brackets")


def split(text: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside all brackets, and the separators found."""
    parts, found, begin, position = [], [], 0, 0
    while position < len(text):
        token = TOKEN.match(text, position)
        assert token is not None
        if token[0] in ("(", "[", "{", r"\{"):
            position = closing(text, position) + (2 if token[0] == r"\{" else 1)
            position = max(position, token.end())
            continue
        if token[0] in separators:
            parts.append(text[begin:position].strip())
            found.append(token[0])
            begin = token.end()
        elif token[0] in (")", "]", "}", r"\}"):
            raise UnparsedError("unbalanced brackets")
        position = token.end()
    return [*parts, text[begin:].strip()], found
