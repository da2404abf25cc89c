r"""Names of things in mathematics: a letter with whatever decorates it is one symbol (``E_{1}``, ``\dot x``, ``y'``).

Each decorated name is replaced by ``Q_{number}``, which every later stage reads as one symbol; the number is a function
of the name, so that a gold answer and a claim agree on it.
"""

from __future__ import annotations

import hashlib
import re

from pcr_run.reward.math import latex
from pcr_run.reward.math.latex import TOKEN, UnparsedError, closing

GREEK, ACCENTS = frozenset(latex.GREEK.split()), frozenset(latex.ACCENTS.split())

STRANGE = frozenset({"I", r"\hbar", r"\ell", r"\gamma", r"\Gamma"})
"""Names that the parser takes for something else, or does not know."""
PLACEHOLDER = re.compile(r"Q_\{\d+\}")

_WORD = re.compile(r"[a-zA-Z]{2,}'[a-z]+")  # Evelyn's
_DIFFERENTIAL = re.compile(r"(?:d|\\partial|\\text\{d\})(\^\{?\d\}?)?\s*(.*)", re.DOTALL)


def symbols(text: str) -> str:
    """The text with every decorated name replaced."""
    out, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        assert match is not None
        token = match[0]
        if token == r"\frac" and (found := _derivative(text, match.end())):
            derivative, position = found
            out.append(placeholder(derivative))
            continue
        if token in (r"\text", r"\begin", r"\end"):  # words, not products of letters
            position = _group_end(text, match.end())
            out.append(text[match.start() : position])
            continue
        if word := _WORD.match(text, position):
            out.append(word[0])
            position = word.end()
            continue
        name, end, decorated = _name(text, position)
        if name is None:
            out.append(token)
            position = match.end()
            continue
        if name != "t" and re.match(r"\s*\(\s*t\s*\)", text[end:]):  # a function of time is the thing itself
            end += re.match(r"\s*\(\s*t\s*\)", text[end:]).end()  # type: ignore[union-attr]
        out.append(placeholder(name) if decorated or name in STRANGE else text[position:end] if name == "t" else name)
        if out[-1].startswith("\\"):
            out[-1] += " "
        position = end
    return "".join(out)


def placeholder(name: str) -> str:
    """The symbol that stands for a name."""
    return f"Q_{{{10 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])}}}"


def _name(text: str, position: int) -> tuple[str | None, int, bool]:
    """(canonical name, its end, whether it is decorated); None where no name begins."""
    token = TOKEN.match(text, position)
    if token is None:
        return None, position, False
    if token[0][1:] in ACCENTS and token[0].startswith("\\"):
        start = _skip(text, token.end())
        if text[start : start + 1] == "{":
            stop = closing(text, start)
            inner, end, _ = _name(text, _skip(text, start + 1))
            if inner is None or _skip(text, end) != stop:
                raise UnparsedError("an accent over more than a name")
            end = stop + 1
        else:
            inner, end, _ = _bare(text, start)
            if inner is None:
                raise UnparsedError("an accent over no name")
        base, decorated = f"{token[0][1:]} {inner}", True
    else:
        bare, end, decorated = _bare(text, position)
        if bare is None:
            return None, position, False
        base = bare
    while True:
        following = _skip(text, end)
        if text[following : following + 1] == "'":
            base, end, decorated = f"{base}'", following + 1, True
        elif prime := re.compile(r"\^\s*(?:\{\s*((?:\\prime\s*|')+)\}|\\prime(?![a-zA-Z]))").match(text, following):
            count = max(1, (prime[1] or "").count("prime") + (prime[1] or "").count("'"))
            base, end, decorated = base + "'" * count, prime.end(), True
        elif text[following : following + 1] == "_" and (found := _subscript(text, following + 1)):
            base, end, decorated = f"{base}_{found[0]}", found[1], True
        else:
            return base, end, decorated


def _bare(text: str, position: int) -> tuple[str | None, int, bool]:
    token = TOKEN.match(text, position)
    if token is None:
        return None, position, False
    if (len(token[0]) == 1 and token[0].isalpha()) or token[0][1:] in GREEK:
        return token[0], token.end(), False
    return None, position, False


def _subscript(text: str, position: int) -> tuple[str, int] | None:
    """What stands below a name, without marks of its form."""
    position = _skip(text, position)
    token = TOKEN.match(text, position)
    if token is None:
        return None
    if token[0] == "{":
        end = closing(text, position) + 1
        inner = text[position + 1 : end - 1]
    elif token[0] == r"\text":
        end = _group_end(text, token.end())
        inner = text[position:end]
    else:
        end, inner = token.end(), token[0]
    inner = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", inner)
    inner = re.sub(r"[\s{}\\]", "", inner)
    return (inner, end) if re.fullmatch(r"[A-Za-z0-9,+\-*'_.()=/]{1,40}", inner) else None


def _derivative(text: str, position: int) -> tuple[str, int] | None:
    r"""``\frac{dM}{dt}`` as one name; None where a fraction is none."""
    parts = []
    for _ in range(2):
        position = _skip(text, position)
        if text[position : position + 1] != "{":
            return None
        end = closing(text, position)
        match = _DIFFERENTIAL.fullmatch(text[position + 1 : end].strip())
        if match is None:
            return None
        order, rest = match.groups()
        name, stop, _ = _name(rest, 0)
        power = re.fullmatch(r"\s*(\^\s*\{?\d\}?)?\s*", rest[stop:]) if name else None
        if name is None or power is None:
            return None
        parts.append((name, re.sub(r"\D", "", order or power[1] or "") or "1"))
        position = end + 1
    (above, order), (below, other) = parts
    return (f"d{order} {above}/d {below}", position) if order == other else None


def _group_end(text: str, position: int) -> int:
    position = _skip(text, position)
    return closing(text, position) + 1 if text[position : position + 1] == "{" else position


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
