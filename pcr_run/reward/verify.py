"""Rewards that verify: a boxed answer against the gold answer, a program against its tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction

from pcr_run.config import RewardConfig, SandboxConfig
from pcr_run.data import CodeTests, Item, Score, Verdict
from pcr_run.reward import answer
from pcr_run.reward.isolation import Isolation
from pcr_run.reward.workers import Pool

_SIMPLE = re.compile(r"[-+]?(?:\d{1,100}(?:\.\d{1,100})?|\.\d{1,100})", re.ASCII)


class MathReward:
    """1 for an answer in the last box that equals the gold answer exactly; ``unboxed`` of it for a right last number."""

    def __init__(self, reward: RewardConfig, pool: Pool) -> None:
        self.reward, self.pool = reward, pool
        self._known: dict[tuple[str, str], Verdict] = {}

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        """One score for each pair."""
        found = [answer.boxed(text) for text in responses]
        claims = []  # (gold, answer) of each response; an answer without a box is its last number
        for item, text, box in zip(items, responses, found, strict=True):
            assert isinstance(item.reference, str)
            if not box and self.reward.unboxed:
                box = answer.last_number(text)
            claims.append((item.reference, box))
        judged = self._judge([(gold, box) for gold, box in claims if box])
        scores = []
        for (gold, claim), box in zip(claims, found, strict=True):
            verdict, seconds = judged[gold, claim] if claim else ("unparsed", 0.0)
            value = float(verdict == "correct")
            if not box:
                verdict, value = "unparsed", value * self.reward.unboxed
            scores.append(Score(value, verdict, seconds, {"correctness": value}))
        return scores

    def _judge(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[Verdict, float]]:
        judged: dict[tuple[str, str], tuple[Verdict, float]] = {}
        hard = []
        for gold, claim in dict.fromkeys(pairs):
            if _SIMPLE.fullmatch(gold) and _SIMPLE.fullmatch(claim):  # most pairs: microseconds, no process
                judged[gold, claim] = ("correct" if Fraction(gold) == Fraction(claim) else "wrong"), 0.0
            else:
                hard.append((gold, claim))
        jobs = [{"kind": "math", "gold": gold, "answer": claim, "seconds": self.reward.seconds} for gold, claim in hard]
        for pair, reply in zip(hard, self.pool.map(jobs, 10 * self.reward.seconds + 30), strict=True):
            judged[pair] = (reply["verdict"], reply["seconds"]) if reply else ("timeout", self.reward.seconds)
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
            pairs.append((item.reference, answer.program(text)))
        unique = [pair for pair in dict.fromkeys(pairs) if pair[1].strip()]
        shared = {"kind": "code", "partial": self.reward.partial, "sandbox": asdict(self.sandbox), "isolation": asdict(self.isolation)}
        jobs = [{**shared, "tests": asdict(tests), "program": program} for tests, program in unique]
        replies = dict(zip(unique, self.pool.map(jobs, self.sandbox.wall_seconds + 10), strict=True))
        scores = []
        for pair in pairs:
            if not pair[1].strip():
                scores.append(Score(0.0, "unparsed", parts={"correctness": 0.0}))
                continue
            reply = replies[pair] or {"verdict": "error", "passed": 0.0, "seconds": 0.0}
            value = reply["passed"] if self.reward.partial else float(reply["verdict"] == "correct")
            scores.append(Score(value, reply["verdict"], reply["seconds"], {"correctness": value}))
        return scores
