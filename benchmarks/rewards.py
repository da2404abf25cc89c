"""Items per second of both verifiers and the start cost of a sandbox. ``python benchmarks/rewards.py [workers]``."""

import json
import os
import sys
import time

from pcr_run.data import CodeTests, Item
from pcr_run.reward import make
from pcr_run.reward.sandbox.isolation import Process, candidates
from pcr_run.reward.sandbox.judge import Guest
from pcr_run.schema import RewardConfig, SandboxConfig


def rate(verifier, reference, responses, **options):
    """Items per second, without the start of the workers."""
    reward = make(RewardConfig(name="verifier", verifier=verifier, workers=workers), SandboxConfig(**options))
    items = [Item("1", (), reference)] * len(responses)
    reward(items[:4], responses[:4])
    start = time.perf_counter()
    scores = reward(items, responses)
    seconds = time.perf_counter() - start
    reward.close()
    assert {score.verdict for score in scores} == {"correct"}
    return round(len(responses) / seconds, 1)


def start_cost(isolation, repeats=30):
    """Milliseconds from the start of a sandbox to its first answer, and to its end."""
    limits = SandboxConfig()
    first = total = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        process = Process(isolation, limits)
        guest = Guest(process, limits)
        guest.load("def f(): return 1", "f")
        guest()
        first += time.perf_counter() - start
        process.close()
        total += time.perf_counter() - start
    return {"first_answer_ms": round(1e3 * first / repeats, 1), "whole_life_ms": round(1e3 * total / repeats, 1)}


workers = int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count()
report = {
    "workers": workers,
    "math_plain_items_per_s": rate("math", "42", [rf"\boxed{{{'0' * (k % 50)}42}}" for k in range(10_000)]),
    "math_latex_items_per_s": rate(
        "math", r"\frac{1}{2}", [rf"\boxed{{\frac{{{k}}}{{{2 * k}}}}}" for k in range(1, 501)]
    ),
}
square = CodeTests("f", tuple(f"assert f({k}) == {k * k}" for k in range(5)))
for isolation in candidates("auto"):
    programs = [f"def f(x):\n    return x * x  # {k}" for k in range(200)]
    report[f"{isolation.level}_runs_per_s"] = rate("sandbox", square, programs, isolation=isolation.level)
    report[f"{isolation.level}_start"] = start_cost(isolation)
print(json.dumps(report, indent=2))
