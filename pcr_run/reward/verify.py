"""Rewards that verify: a boxed answer against the gold answer, a program against its tests."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

from pcr_run.data import CodeTests, Item, Score, Verdict
from pcr_run.errors import RunError
from pcr_run.reward import answer
from pcr_run.reward.sandbox.isolation import Isolation
from pcr_run.reward.workers import Pool
from pcr_run.schema import RewardConfig, SandboxConfig

_SIMPLE = re.compile(r"[-+]?(?:\d{1,100}(?:\.\d{1,100})?|\.\d{1,100})", re.ASCII)


def is_simple(text: str) -> bool:
    """Whether a text is a plain decimal number, which needs no parser."""
    return _SIMPLE.fullmatch(text) is not None


def _score(verdict: Verdict, seconds: float = 0.0, detail: str = "") -> Score:
    return Score(float(verdict == "correct"), verdict, seconds, detail=detail)


@functools.cache
def check_math() -> None:
    """Raise RunError, with the reason, where a worker process cannot judge a LaTeX answer on this machine."""
    pool = Pool(1)
    try:
        (reply,) = pool.map([{"kind": "math", "gold": "\\frac{1}{2}", "answer": "0.5", "seconds": 30.0}], 60.0)
    finally:
        pool.close()
    if not reply or reply["verdict"] != "correct":
        reason = reply.get("detail", reply["verdict"]) if reply else "it died"
        raise RunError(f"a worker process for rewards cannot compare 1/2 with 0.5: {reason}")


class MathReward:
    """1 for an answer in the last box that equals the gold answer; ``unboxed`` of it for a right last number."""

    def __init__(self, reward: RewardConfig, pool: Pool) -> None:
        self.reward, self.pool = reward, pool

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each pair."""
        found = [answer.boxed(text) for text in responses]
        claims = []  # (gold, answer) of each response; an answer without a box is its last number
        for item, text, box in zip(items, responses, found, strict=True):
            assert isinstance(item.reference, str)
            if not box and self.reward.unboxed:
                box = answer.last_number(text)
            claims.append((item.reference, box))
        judged = self._judge([(gold, claim) for gold, claim in claims if claim])
        scores = []
        for (gold, claim), box in zip(claims, found, strict=True):
            score = replace(judged[gold, claim], answer=claim) if claim else Score(0.0, "unparsed")
            scores.append(score if box else replace(score, value=score.value * self.reward.unboxed, verdict="unparsed"))
        return scores

    def _judge(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Score]:
        judged: dict[tuple[str, str], Score] = {}
        hard = []
        for gold, claim in dict.fromkeys(pairs):
            if is_simple(gold) and is_simple(claim):  # most pairs: microseconds, no process
                judged[gold, claim] = _score("correct" if Fraction(gold) == Fraction(claim) else "wrong")
            else:
                hard.append((gold, claim))
        jobs = [{"kind": "math", "gold": gold, "answer": claim, "seconds": self.reward.seconds} for gold, claim in hard]
        for pair, reply in zip(hard, self.pool.map(jobs, 10 * self.reward.seconds + 30), strict=True):
            judged[pair] = _score(**reply) if reply else _score("timeout", self.reward.seconds)
        return judged


class CodeReward:
    """1 for a program that passes all its tests, or the share of tests passed with ``partial``."""

    def __init__(self, reward: RewardConfig, sandbox: SandboxConfig, isolation: Isolation, pool: Pool) -> None:
        self.reward, self.sandbox, self.isolation, self.pool = reward, sandbox, isolation, pool

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each pair; the same program for the same tests is run once."""
        pairs = []
        for item, text in zip(items, responses, strict=True):
            assert isinstance(item.reference, CodeTests)
            pairs.append((item.reference, answer.program(text, item.reference.entry_point)))
        unique = [pair for pair in dict.fromkeys(pairs) if pair[1].strip()]
        shared = {
            "kind": "code",
            "partial": self.reward.partial,
            "sandbox": asdict(self.sandbox),
            "isolation": asdict(self.isolation),
        }
        jobs = [{**shared, "tests": asdict(tests), "program": program} for tests, program in unique]
        replies = dict(zip(unique, self.pool.map(jobs, self.sandbox.wall_seconds + 10), strict=True))
        return [self._score(replies[pair]) if pair in replies else _score("unparsed") for pair in pairs]

    def _score(self, reply: dict[str, Any] | None) -> Score:
        if reply is None:
            return _score("error", detail="the worker died")
        passed = reply.pop("passed") if "passed" in reply else 0.0
        score = _score(**reply)
        return replace(score, value=passed) if self.reward.partial else score
