r"""Whether an answer equals the gold answer: exact mathematics, no tolerance.

Runs in a worker process (worker.py): SymPy may take any time on a hostile leaf.
"""

from __future__ import annotations

from pcr_run.data import Verdict
from pcr_run.reward.math.comparison import same
from pcr_run.reward.math.latex import RefusedError, TooLargeError, UnparsedError, spell
from pcr_run.reward.math.reading import readings


def equal(gold: str, answer: str) -> Verdict:
    """How an answer compares with the gold answer, both LaTeX or plain text without the box."""
    try:
        meant = readings(gold)
    except TooLargeError:  # a number that nobody computes equals its own spelling
        return "correct" if _spelling(gold) == _spelling(answer) else _unequal(answer)
    except (UnparsedError, RefusedError):
        return "error"
    try:
        claims = readings(answer)
        return "correct" if any(same(a, b) for a in meant for b in claims) else "wrong"
    except UnparsedError:
        return "unparsed"
    except RefusedError:
        return "refused"


def parses(gold: str) -> bool:
    """Whether a gold answer states a value that an answer can equal."""
    return equal(gold, gold) == "correct"


def _spelling(text: str) -> str | None:
    try:
        return spell(text).replace(" ", "")
    except (UnparsedError, RefusedError):
        return None


def _unequal(answer: str) -> Verdict:
    """The verdict on an answer that is not the gold one."""
    try:
        readings(answer)
    except UnparsedError:
        return "unparsed"
    except RefusedError:
        return "refused"
    return "wrong"
