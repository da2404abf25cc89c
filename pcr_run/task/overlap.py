"""Training questions that are held out as well: the same ones, and those that share 13 words in a row."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pcr_run.data import Item, Overlap, Task
from pcr_run.errors import ConfigError

log = logging.getLogger(__name__)

N = 13
COMMON = 10
"""What more different training questions share is a phrase ("where m and n are relatively prime positive integers"),
not a sign of a copy: Brown et al. 2020 (arXiv:2005.14165), Appendix C, where N is 13 too."""

SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\uff0d", "-"),
        **{"\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u00d7": r"\times ", "\u00f7": r"\div "},
        **dict.fromkeys("\u00b7\u22c5", r"\cdot "),
    }
)
POWERS = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
JOINED = re.compile(  # 10,000  10{,}000  10,\!000  it's
    r"(?<=\d)(?:,|\{,\}|,?\\[,!])(?=\d{3}(?!\d))|(?<=[^\W\d_])['\u2019](?=[^\W\d_])"
)
LATEX = (
    (re.compile(r"\\[dtc]?frac(?![a-z])\s*(?:(\d)(\d))?"), r"\\frac \1 \2 "),
    (re.compile(r"\\(le|ge|ne)(?:q|qslant)?(?![a-z])"), r"\\\1 "),
    (
        re.compile(
            r"\\(?:left|right|middle|big+[lr]?|displaystyle|textstyle|limits|q?quad|math(?:rm|bf|it)|mbox|emph"
            r"|text(?:bf|it|rm)?|l?dots|cdots|begin|end|item)(?![a-z])|\\[hv]space\*?\s*\{[^}]*\}"
            r"|\\(?=%)|\\[^a-z]"  # \%  \,  \;  \!  \(  \[  \\ and a backslash before a blank
        ),
        " ",
    ),
)
"""One spelling for what keyboards and LaTeX write in several ways, from the first to the last."""

PUNCTUATION = r".,;:?!\"'`${}~&#\\\u2018-\u201f\u2026\u00ab\u00bb"
TOKEN = re.compile(rf"\\[^\W\d_]+|[^\W\d_]+\d*|\d+(?:\.\d+)?|(?<=[\d)\]}}])!|(?<=[^a-z][a-z])!|[^\w\s{PUNCTUATION}]|_")
"""Words, commands, numbers, and signs that are no punctuation: 5+3-2 and 5-3+2 are two questions."""

Words = tuple[str, ...]


def apart(task: Task, others: Sequence[Task], drop: bool = False, key: str = "task.data") -> Task:
    """``task`` without training questions that one of ``others`` holds out, and with ``overlap`` by their names.

    Questions are compared alone (``Item.question``). The same ones, see ``tokens``, always go; with ``drop`` so do
    those that share ``N`` words in a row with a held-out one, which a question of fewer words cannot. Raises
    ``ConfigError`` under ``key`` where none is left.
    """
    whole, grams = _held_out(others)
    same: list[set[str]] = []
    found: list[tuple[str, set[Words]]] = []  # which question, and its n-grams that are held out
    for item in task.train:
        each = tokens(_question(item))
        same.append(whole.get(identity(each), set()))
        found.append((identity(each), set() if same[-1] else {gram for gram in ngrams(each) if gram in grams}))
    common = _common(found)
    rest = [its - common for _, its in found]
    shared = [{name for gram in its for name in grams[gram]} for its in rest]
    overlap = {}
    for other in others:
        both = [[place for place, names in enumerate(side) if other.name in names] for side in (same, shared)]
        overlap[other.name] = Overlap(len(both[0]), len(both[1]), len(task.train), len(other.test))
        most = max(both[1], key=lambda place: len(rest[place]), default=0)
        _warn(other.name, overlap[other.name], drop, task.train[most].id if task.train else "")
    kept = [item for item, one, two in zip(task.train, same, shared, strict=True) if not one and not (drop and two)]
    if task.train and not kept:
        raise ConfigError(key, f"every training question of {task.name} is also held out; give others")
    return replace(task, train=kept, overlap=overlap)


def tokens(text: str) -> list[str]:
    """Words, commands, numbers and signs of a question, without case, whitespace, punctuation and LaTeX spacing."""
    text = POWERS.sub(r"^\g<0>", text.translate(SIGNS))  # before normalizing makes digits of them
    text = JOINED.sub("", unicodedata.normalize("NFKC", text).lower())
    text = DRAWING.sub(" ", text)
    if "\\" in text:
        for pattern, spelling in LATEX:
            text = pattern.sub(spelling, text)
    return TOKEN.findall(text)


def identity(found: Sequence[str]) -> str:
    """What two questions that are the same have in common: all tokens, run together but for numbers."""
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(found))


def ngrams(found: Sequence[str]) -> Iterator[Words]:
    """Every ``N`` words in a row; signs are no words."""
    words = [token for token in found if token[0].isalnum() or len(token) > 1]
    return zip(*(words[start:] for start in range(N)), strict=False)


def _question(item: Item) -> str:
    return item.question or item.prompt[-1]["content"]


def _held_out(others: Sequence[Task]) -> tuple[dict[str, set[str]], dict[Words, set[str]]]:
    """Questions and n-grams that are held out, with the names of the tasks that do it."""
    whole: defaultdict[str, set[str]] = defaultdict(set)
    grams: defaultdict[Words, set[str]] = defaultdict(set)
    for other in others:
        for each in map(tokens, map(_question, other.test)):
            whole[identity(each)].add(other.name)
            for gram in ngrams(each):
                grams[gram].add(other.name)
    whole.pop("", None)  # of nothing but punctuation
    return dict(whole), dict(grams)


def _common(found: Sequence[tuple[str, set[Words]]]) -> set[Words]:
    """N-grams of more than ``COMMON`` different training questions; copies of one are one."""
    different = {question: grams for question, grams in found if grams}
    counts = Counter(gram for grams in different.values() for gram in grams)
    return {gram for gram, count in counts.items() if count > COMMON}


def _warn(name: str, found: Overlap, drop: bool, most: str) -> None:
    if found.same:
        log.warning("%d training questions are also held out in %s; they are dropped", found.same, name)
    if found.ngram:
        done = "they are dropped" if drop else "phrases or copies? task.overlap=drop leaves them out"
        what = f"share {N} words in a row with a held-out one of {name} (the most: {most})"
        log.warning("%d training questions %s; %s", found.ngram, what, done)
