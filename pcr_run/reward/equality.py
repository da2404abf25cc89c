"""Whether an answer equals the gold answer."""

from __future__ import annotations

from math_verify import parse, verify

from pcr_run.data import Verdict


def equal(gold: str, answer: str) -> Verdict:
    """Exact comparison."""
    g = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    a = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    if not a:
        return "unparsed"
    return "correct" if verify(g, a, timeout_seconds=None) else "wrong"
