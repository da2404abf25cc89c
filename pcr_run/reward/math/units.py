"""Units of an answer: optional, but they must not contradict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pcr_run.reward.math.latex import UnparsedError


@dataclass(frozen=True)
class Unit:
    """A unit by name. ``scale`` is a pure factor that belongs to the number (percent, thousand).

    The ``base`` of a numeral is treated like a unit.
    """

    name: str = ""
    scale: Fraction = Fraction(1)
    base: int = 0


_TABLE = """
length  mm:1/1000 millimeter millimetre; cm:1/100 centimeter centimetre; m:1 meter metre; km:1000 kilometer kilometre
inches  inch:1 in inches; foot:12 ft feet; yard:36 yd; mile:63360 mi
mass    mg:1/1000 milligram; g:1 gram gm; kg:1000 kilogram; tonne:1000000
time    ms:1/1000 millisecond; second:1 s sec; minute:60 min; hour:3600 hr h; day:86400; week:604800
money   cent:1/100 cents; dollar:1 usd
volume  ml:1/1000 milliliter millilitre; liter:1 l litre
resist  ohm:1; kilohm:1000 kiloohm; megohm:1000000 megaohm
"""
_KNOWN: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.strip().splitlines():
    _dimension, _entries = _line.split(maxsplit=1)
    for _entry in _entries.split(";"):
        _name, *_aliases = _entry.split()
        _first, _factor = _name.split(":")
        for _alias in (_first, *_aliases):
            _KNOWN[_alias] = (_dimension, Fraction(_factor))
_BARE = {"mm", "cm", "m", "km", "ft", "mg", "g", "kg", "ml", "s", "mph"} | {name for name in _KNOWN if len(name) > 3}

_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALES |= {f"{name}s": value for name, value in _SCALES.items()} | {"k": 1000, "mn": 10**6, "bn": 10**9}
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "squared": "2", "cubic": "3", "cu": "3", "cu.": "3", "cubed": "3"}
_STOP_WORDS = (
    "or and not no to is are if than less more about approximately approx around between wrong incorrect false true "
    "undefined unknown none over under by times plus minus half quarter double twice below above negative positive "
    "except nearly almost at least most up one two three four five six seven eight nine ten factorial root mod modulo "
    "power choose inverse reciprocal opposite squared cubed maybe perhaps probably possibly"
)
_STOP = set(_STOP_WORDS.split())
_PERCENT = re.compile(r"(.*?)\s*(?:\\?%|\\text\{\s*\\?%\s*\}|(?:\\text\{)?\s*(?:percent|per cent|pct)\.?\s*\}?)")
_DEGREE = re.compile(r"(.*?)\s*(?:\^\\circ|(?:\\text\{)?\s*degrees?\s*\}?)\s*(?:\\text\{)?\s*(C|F|)\s*\}?")
_MONEY = re.compile(r"(-?)\s*\\?\$\s*(.+)")
_TEXT = re.compile(r"(.*?[\d)}])\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?([23])\}?)?(.*)")
_OHM = re.compile(r"(.*[\d)}])\s*([kM]?)\s*\\Omega")
_PER = re.compile(
    r"(.*?[\d)}])\s*\\frac\s*\{\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?([23])\}?)?\s*\}"
    r"\s*\{\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?([23])\}?)?\s*\}"
)
_ONE = r"(\d+(?:\.\d+)?)\s*(?:\\text\{\s*([a-zA-Z.]+)(?:\s*,?\s+and)?\s*\}|([a-zA-Z]+)\.?)"
_MIXED = re.compile(rf"{_ONE}(?:\s*(?:,|and|,?\s*\\text\{{\s*,?\s*and\s*\}})?\s*{_ONE}){{1,3}}")
_WORDS = re.compile(r"(.*[\d)}])\s*((?<![\\a-zA-Z])[a-zA-Z][a-zA-Z ./]*?)(?:\^\s*\{?([23])\}?)?")


def number_unit(text: str) -> tuple[str, Unit | None]:
    """The number before a percent or degree sign or after a currency sign, and that unit."""
    if match := _PERCENT.fullmatch(text):
        return match[1], Unit("percent", Fraction(1, 100))
    if match := _DEGREE.fullmatch(text):
        return match[1], Unit("degree" + match[2])
    if match := _MONEY.fullmatch(text):
        rest, unit = trailing_unit(match[2])
        if unit is not None and unit.name not in ("", "dollar"):
            raise UnparsedError("two units")
        return match[1] + rest, Unit("dollar", unit.scale if unit else Fraction(1))
    return text, None


def mixed(text: str) -> tuple[Fraction, Unit] | None:
    """``1 hour 30 minutes`` in the smaller unit: parts of one dimension, the larger first; None for other texts."""
    if not _MIXED.fullmatch(text):
        return None
    total, before, unit = Fraction(0), None, Unit()
    parts = [(Fraction(number), word or bare) for number, word, bare in re.findall(_ONE, text)]
    for number, word in parts:
        known = _KNOWN.get(word.casefold().strip(".")) or _KNOWN.get(word.casefold().strip(".").removesuffix("s"))
        if known is None or (before is not None and (known[0] != before[0] or known[1] >= before[1])):
            return None
        total = total * (before[1] / known[1] if before else 1) + number
        before, unit = known, Unit(word.casefold().strip("."))
    return total, unit


def trailing_unit(text: str) -> tuple[str, Unit | None]:
    """The number before a unit in words, and that unit; the whole text and None when it ends in no unit."""
    if match := _OHM.fullmatch(text):
        return match[1], Unit({"": "ohm", "k": "kilohm", "M": "megohm"}[match[2]])
    if match := _PER.fullmatch(text):
        number, over, square, under, cube = match.groups()
        return number, _unit(over + (f"^{square}" if square else "") + "/" + under + (f"^{cube}" if cube else ""))
    if match := _TEXT.fullmatch(text):
        number, words, power, more = match.groups()
        if more.strip() and not re.fullmatch(r"\s*/\s*\\text\{[^{}]*\}\s*(?:\^\s*\{?[23]\}?)?", more):
            raise UnparsedError("text after a unit")
        more = re.sub(r"\\text\{([^{}]*)\}", r"\1", more)
        return number, _unit(words + (f"^{power}" if power else "") + more.replace(" ", ""))
    match = _WORDS.fullmatch(text)
    if match and re.search(r"(?:^|[^\\a-zA-Z])$", match[1]):
        words = match[2].strip()
        if words.casefold() in _BARE or " " in words or len(words) > 3 or words.casefold() in _SCALES:
            return match[1], _unit(words + (f"^{match[3]}" if match[3] else ""))
    return text, None


def _unit(text: str) -> Unit:
    """A unit from its words."""
    words = text.strip().strip(".").split()
    if len(words) > 4:
        raise UnparsedError("a sentence, no unit")
    scale = Fraction(1)
    while words and (factor := _SCALES.get(words[0] if words[0] == "K" else words[0].casefold())):  # K is a kelvin
        scale *= factor
        words.pop(0)
    power = ""
    for place in (0, -1):  # square feet, feet squared
        if len(words) > 1 and (found := _POWERS.get(words[place].casefold())):
            power = f"^{found}"
            words.pop(place)
    if any(word.casefold() in _STOP for word in words):
        raise UnparsedError("words that are no unit")
    name = " ".join(words).casefold().replace(" per ", "/").replace(" / ", "/") + power
    if not re.fullmatch(r"[a-z][a-z. ]*(?:\^[23])?(?:/[a-z ]+(?:\^[23])?)?|", name):
        raise UnparsedError("no unit")
    return Unit(name, scale)


def _parts(name: str) -> tuple[str, Fraction]:
    """The dimension of a unit and its factor."""
    dimension, factor = [], Fraction(1)
    for place, part in enumerate(name.split("/")):
        word, _, power = part.partition("^")
        known = _KNOWN.get(word) or _KNOWN.get(word.removesuffix("s")) or (word.removesuffix("s"), Fraction(1))
        dimension.append(known[0] + (f"^{power}" if power else ""))
        factor *= (known[1] if place == 0 else 1 / known[1]) ** int(power or 1)
    return "/".join(dimension), factor


def units_agree(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """Factor from the answer's unit to the gold answer's; 1 where one states none; None where they contradict."""
    if gold is None or answer is None or gold == answer:
        return Fraction(1)
    if gold.name.startswith("degree") and answer.name.startswith("degree"):
        return Fraction(1) if "degree" in (gold.name, answer.name) or gold.name == answer.name else None
    (left, a), (right, b) = _parts(gold.name), _parts(answer.name)
    return b / a if left == right else None
