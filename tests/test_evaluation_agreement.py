"""Verdicts on answers like MATH's against math-verify, and a benchmark that asks what the trained task holds out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from math_verify import parse, verify

from pcr_run import reward
from pcr_run.data import Item
from pcr_run.run.parts import make_tasks, measured_tasks
from pcr_run.schema import Config, RewardConfig, SandboxConfig, TaskConfig

PAIRS = [
    ("\\frac{3}{4}", "0.75", True),
    ("\\frac{3}{4}", "\\dfrac34", True),
    ("\\frac{3}{4}", "\\frac{4}{3}", False),
    ("2\\sqrt{3}", "\\sqrt{12}", True),
    ("2\\sqrt{3}", "3\\sqrt{2}", False),
    ("\\pi", "3.14", False),
    ("x^2+2x+1", "(x+1)^2", True),
    ("x^2+2x+1", "x^2+1", False),
    ("(3, \\frac{\\pi}{2})", "\\left(3, \\frac{\\pi}{2}\\right)", True),
    ("(3, \\frac{\\pi}{2})", "(\\frac{\\pi}{2}, 3)", False),
    ("\\{1, 2, 3\\}", "\\{3, 1, 2\\}", True),
    ("[1, 5)", "[1,5)", True),
    ("[1, 5)", "(1,5)", False),
    ("11\\sqrt{2}", "\\sqrt{242}", True),
    ("3 + 4i", "4i+3", True),
    ("-\\frac{1}{2}", "-0.5", True),
    ("1{,}000", "1000", True),
]
"""(gold, answer, equal) where the question has one answer by mathematics alone."""


@pytest.fixture(scope="module")
def judged() -> list[bool]:
    made = reward.make(RewardConfig(name="verifier", verifier="math", seconds=20.0, workers=1), SandboxConfig())
    items = [Item(str(index), (), gold) for index, (gold, _, _) in enumerate(PAIRS)]
    try:
        scores = made(items, [f"so \\boxed{{{answer}}}" for _, answer, _ in PAIRS])
    finally:
        made.close()
    return [score.verdict == "correct" for score in scores]


@pytest.mark.parametrize("index", range(len(PAIRS)), ids=[f"{gold} and {answer}" for gold, answer, _ in PAIRS])
def test_verdicts_agree_with_math_verify_where_both_are_defined(judged, index) -> None:
    gold, answer, equal = PAIRS[index]
    parsed = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    assert all(parsed), "math-verify reads both"
    assert judged[index] is equal
    assert verify(*parsed, timeout_seconds=None) is equal


@pytest.mark.parametrize("shots", [0, 1])
def test_a_benchmark_with_the_trained_tasks_questions_stands_for_them(tmp_path: Path, shots: int) -> None:
    for name, count in (("train", 3), ("test", 2)):
        rows = [{"problem": f"{name} {index}?", "answer": index} for index in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = {"path": str(tmp_path / "test.jsonl"), "split": "test"}
    train = {"path": str(tmp_path / "train.jsonl"), "split": "train"}
    cfg = Config(task=TaskConfig("math", "math", {"source": "hub", "train": train, "test": test, "suffix": " Go."}))
    own = {"source": "hub", "train": None, "test": dict(test), "shots": shots}
    cfg.evaluation.tasks = {"aime24": TaskConfig("aime24", "math", own, n=64)}
    main, others = make_tasks(cfg)
    measured = measured_tasks(cfg, main, others)
    assert list(measured) == ["math", "aime24"]
    assert (measured["math"] is measured["aime24"]) is (shots == 0)
    assert (measured["math"].n == 64) is (shots == 0)
