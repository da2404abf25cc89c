"""Published data sets: their columns and types with rows of our own, and what comes out of the first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pcr_run.data import CodeTests

Row = dict[str, Any]
URL = "https://example.org/wiki/index.php/"


@dataclass(frozen=True)
class Published:
    """A set: the file it is configured in (or its name in docs/data.md), ``side`` of it, rows by number and how many.

    ``first``: question and reference of row 0; ``usable``: how many rows are to come out; ``answer``: the column that
    judges, ``needed``: those that cannot be missing.
    """

    where: str
    side: str
    row: Callable[[int], Row]
    count: int
    first: tuple[str, str | CodeTests]
    usable: int
    needed: tuple[str, ...]
    answer: str
    kind: str = "parquet"


def aime_csv(i: int) -> Row:
    """933 problems, 919 of them up to 2023; the last of these had two right answers."""
    year = 2024 if i >= 919 else 1983 + i * 41 // 919
    answer = "080 or 081 (both were accepted)" if i == 0 else f"{i % 1000:03d}"
    row = {"ID": f"{year}-I-{i}", "Year": year, "Problem Number": i % 15 + 1, "Question": f"Find $x_{{{i}}}$."}
    return row | {"Answer": answer, "Part": None if year < 2000 else "I"}


def aime_json(i: int) -> Row:
    numbers = {"year": 1983 + i * 41 // 975, "aime_number": 1, "problem_number": i % 15 + 1, "difficulty": 3.5}
    return {"problem": f"Find {i}.", "solution": f"It is {i}.", "answer": f"{i % 1000:03d}", **numbers}


def numina_cot(i: int) -> Row:
    """Every fifth is a proof, every fifth asks for a name."""
    boxes = f"{i}", f"\\frac{{{i}}}{{7}}", "-3", "\\text{Ann}"
    solution = "Obvious." if i % 5 == 4 else f"First $\\boxed{{0}}$, then $\\boxed{{{boxes[i % 5]}}}$."
    text = {"problem": f"Problem {i}?", "solution": solution}
    return {"source": "synthetic_math", **text, "messages": [{"content": text["problem"], "role": "user"}]}


def numina15(i: int) -> Row:
    """Every second is of use; the others are a proof, have no answer, or are not valid."""
    row = {"problem": f"Problem {i}?", "solution": "So it is.", "answer": str(i), "problem_type": "Algebra"}
    row |= {"question_type": "math-word-problem", "problem_is_valid": "Yes", "solution_is_valid": "Yes"}
    wrong = ("answer", "proof"), ("answer", "notfound"), ("question_type", "MCQ"), ("problem_is_valid", "No")
    return row | (dict([wrong[i // 2 % 4]]) if i % 2 else {}) | {"source": "olympiads", "synthetic": False}


def solved(i: int) -> Row:
    return {"problem": f"Problem {i}?", "solution": f"So $\\boxed{{{i}}}$.", "answer": str(i)}


def stdio(i: int, packed: Callable[[Row], Any] = dict) -> Row:
    case = {"fn_name": None, "input": f"{i}\n", "output": f"{i}\n", "type": "stdin_stdout"}
    row = {"problem_statement": f"Print line {i}.", "gold_standard_solution": "print(input())", "metadata": "{}"}
    return row | {"verification_info": packed({"language": "python", "test_cases": [case]})}


def boxed(i: int) -> Row:
    return {"id": i, "problem": f"Find {i}.", "solution": f"First \\boxed{{0}}, so $\\boxed{{{i + 204}}}$.", "url": URL}


def amc(i: int) -> Row:
    year = 2022 if i < 43 else 2023
    return {"id": i % 50, "problem": f"Find {i}.", "answer": i + 99.0, "url": f"{URL}{year}_AMC_12A_Problems/Problem_1"}


def gsm8k(i: int) -> Row:
    return {"question": f"How many are {i}?", "answer": f"He has <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1:,}"}


def humaneval(i: int) -> Row:
    test = f"def check(candidate):\n    assert candidate(1) == {i}\n"
    row = {"task_id": f"HumanEval/{i}", "prompt": f'def f{i}(x):\n    """Answer {i}."""\n', "entry_point": f"f{i}"}
    return row | {"canonical_solution": f"    return {i}\n", "test": test}


def mbpp_full(i: int) -> Row:
    row = {"task_id": 601 + i, "text": f"Write a function to give {i}.", "code": f"def give():\n    return {i}"}
    tests = {"test_list": [f"assert give() == {i}"], "test_setup_code": "", "challenge_test_list": []}
    return row | tests


def mbpp_sanitized(i: int) -> Row:
    full = mbpp_full(i)
    row = {"source_file": "b.ipynb", "task_id": i, "prompt": full["text"], "code": full["code"]}
    return row | {"test_imports": ["import math"], "test_list": full["test_list"]}


def plain(question: str, answer: str, value: Callable[[int], Any] = str, **others: Any) -> Callable[[int], Row]:
    """Rows of a question, an answer and other columns."""
    return lambda i: {question: f"Find {i}.", answer: value(i), **others}


def three(i: int) -> str:
    return f"{i + 7:03d}"


ONE, QA, COMPLETE = ("Find 0.", "0"), ("question", "answer"), 'def f0(x):\n    """Answer 0."""'
FUNCTION = (
    f"Complete this function. Answer with the whole function in a code block.\n```python\n{COMPLETE}\n```",
    CodeTests("f0", (f"{humaneval(0)['test']}\ncheck(f0)",)),
)
GIVE = "Write a function to give 0.\nThe code must pass these tests:\n```python\nassert give() == 0\n```"
LINE = ("Print line 0.", CodeTests(None, stdio=(("0\n", "0\n"),)))
PA, PS = ("problem", "answer"), ("problem", "solution")
PROGRAM = ("problem_statement", "verification_info")
HUMANEVAL, MBPP = ("prompt", "test", "entry_point"), ("code", "test_list")
AIME = ("Find $x_{0}$.", "80")
AGAINST_AIME24 = ("paper", "numina", "numina15", "numina_verifiable", "deepscaler")
SOLVED = ("Problem 0?", "0")

PUBLISHED = [
    Published(
        "task/data/math_paper", "train", aime_csv, 933, AIME, 919, ("Year", "Question", "Answer"), "Answer", "csv"
    ),
    Published("AIME 1983-2023, gneubig", "", aime_csv, 933, AIME, 919, ("Year", "Question", "Answer"), "Answer", "csv"),
    Published(
        "AIME 1983-2023, complete (DeepScaleR's repository)",
        *("", aime_json, 975, ("Find 0.", "000"), 975, ("problem", "answer", "year"), "answer", "json"),
    ),
    Published("task/data/math_numina", "train", numina_cot, 7_000, ("", ""), 4_000, PS, "solution"),
    Published("task/data/math_numina15", "train", numina15, 20_004, ("", ""), 10_000, (*PA, "question_type"), "answer"),
    Published("task/data/math_numina_verifiable", "train", solved, 50, SOLVED, 50, PA, "answer"),
    Published("NuminaMath-1.5, yentinglin", "", solved, 50, SOLVED, 50, PA, "answer"),
    Published("task/data/math_deepscaler", "train", solved, 50, SOLVED, 50, PA, "answer", "json"),
    Published("task/data/code_verifiable", "train", stdio, 50, LINE, 50, PROGRAM, "verification_info"),
    Published(
        "programs, PrimeIntellect",
        *("", lambda i: stdio(i, json.dumps), 50, LINE, 50, PROGRAM, "verification_info", "jsonl"),
    ),
    *(
        Published(
            where,
            "test",
            plain("problem", "answer", three, solution="", year="2024"),
            30,
            ("Find 0.", "007"),
            30,
            PA,
            "answer",
        )
        for where in ("task/aime24", *(f"task/data/math_{name}" for name in AGAINST_AIME24))
    ),
    Published(
        "AIME24, whole numbers",
        *(
            "",
            plain("Problem", "Answer", int, Solution="So.", ID="2024-I-1"),
            30,
            ONE,
            30,
            ("Problem", "Answer"),
            "Answer",
        ),
    ),
    Published("AIME24, answers in boxes", "", boxed, 30, ("Find 0.", "204"), 30, PS, "solution"),
    Published("task/aime25", "test", plain("problem", "answer", id="0"), 30, ONE, 30, PA, "answer", "jsonl"),
    Published("AIME25 I", "", plain("question", "answer"), 15, ONE, 15, QA, "answer", "jsonl"),
    Published("AIME25 II", "", plain("question", "answer"), 15, ONE, 15, QA, "answer", "jsonl"),
    Published("AIME25, with solutions", "", plain("problem", "answer", solution="", id=0), 30, ONE, 30, PA, "answer"),
    Published("task/amc23", "test", plain("question", "answer", id=0, url=URL), 40, ONE, 40, QA, "answer"),
    Published("AMC23, of 83 problems of two years", "", amc, 83, ("Find 43.", "142"), 40, (*PA, "url"), "answer"),
    Published(
        "task/math500",
        *("test", plain("problem", "answer", subject="Algebra", level=3, solution="", unique_id="a"), 500, ONE, 500),
        *(PA, "answer", "jsonl"),
    ),
    Published("task/minerva", "test", plain("question", "answer"), 272, ONE, 272, QA, "answer"),
    *(
        Published(f"MRT's {name}", "", plain("problem", "answer"), count, ONE, count, PA, "answer")
        for name, count in (("AIME24", 30), ("AIME25", 30), ("AMC23", 40), ("Minerva", 272), ("MATH-500", 500))
    ),
    Published("task/data/math_gsm8k", "train", gsm8k, 7_473, ("How many are 0?", "1"), 7_473, QA, "answer"),
    Published("task/data/math_gsm8k", "test", gsm8k, 1_319, ("How many are 0?", "1"), 1_319, QA, "answer"),
    Published("task/gsm8k", "test", gsm8k, 1_319, ("How many are 0?", "1"), 1_319, QA, "answer"),
    Published("GSM8K, Socratic", "", gsm8k, 1_319, ("How many are 0?", "1"), 1_319, QA, "answer"),
    *(
        Published(where, "test", humaneval, 164, FUNCTION, 164, HUMANEVAL, "test", "jsonl")
        for where in (
            "task/humaneval0",
            "task/humaneval1",
            "task/humaneval5",
            "task/data/code_paper",
            "task/data/code_verifiable",
        )
    ),
    *(
        Published(
            where,
            side,
            mbpp_full,
            count,
            (GIVE, CodeTests("give", ("assert give() == 0",))),
            count,
            (*MBPP, "text"),
            "test_list",
        )
        for where, side, count in (
            ("task/data/code_paper", "train", 374),
            ("task/data/code_mbpp", "train", 374),
            ("task/data/code_mbpp", "test", 500),
        )
    ),
    *(
        Published(
            where,
            *(side, mbpp_sanitized, 120, (GIVE, CodeTests("give", ("assert give() == 0",), "import math")), 120),
            *((*MBPP, "prompt", "test_imports"), "test_list", "json"),
        )
        for where, side in (("task/mbpp", "test"), ("MBPP, sanitized", ""))
    ),
]
"""Rows that a sample draws have no first one."""
