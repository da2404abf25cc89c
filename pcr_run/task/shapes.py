"""Shapes of rows: each function turns a row of a well-known layout into (question, reference), or None to leave it out.

A function's keyword arguments are its options. A missing column is a ``KeyError``, a bad value a ``ValueError``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from pcr_run.data import CodeTests

Row = Mapping[str, Any]
NUMBER = re.compile(r"-?\$?\d[\d,]*(\.\d+)?|-?\\[dt]?frac\{\d+\}\{\d+\}|-?\d+/\d+")


def math(
    row: Row,
    question: str = "problem",
    answer: str = "answer",
    solution: str | None = None,
    numbers: bool = False,
    fix: dict[str, str] | None = None,
) -> tuple[str, str] | None:
    """A question with a gold answer.

    ``question`` and ``answer`` name columns; ``solution`` names a column whose last box is the answer, and rows without
    a box (proofs) are left out; ``numbers`` leaves out rows whose answer is no number; ``fix`` replaces answers. Of
    GSM8K's answers the part after ``####`` counts.
    """
    if solution is not None:
        gold = last_box(row[solution])
        if gold is None:
            return None
    else:
        gold = _text(row[answer]).rpartition("####")[2].strip()
    gold = (fix or {}).get(gold, gold)
    if numbers and not NUMBER.fullmatch(gold):
        return None
    if not gold:
        raise ValueError("the answer is empty")
    return _text(row[question]), gold


def humaneval(row: Row) -> tuple[str, CodeTests]:
    """``prompt``, ``test`` and ``entry_point`` of HumanEval.

    What stands before the function (imports, helpers) goes before the answer, and before the tests that call a helper:
    they have one of their own, whatever the answer makes of it.
    """
    prompt, name = row["prompt"], row["entry_point"]
    before = re.search(rf"^def {re.escape(name)}\b", prompt, re.MULTILINE)
    if before is None:
        raise ValueError(f"the prompt does not define {name}")
    given = prompt[: before.start()]
    return complete(prompt), CodeTests(name, (f"{row['test']}\ncheck({name})",), setup=given, preamble=given)


def complete(head: str) -> str:
    """The question that goes with a function's head and docstring."""
    return f"Complete this function. Answer with the whole function in a code block.\n```python\n{head.strip()}\n```"


def mbpp(row: Row) -> tuple[str, CodeTests] | None:
    """MBPP, full (``text``, ``test_setup_code``) or sanitized (``prompt``, ``test_imports``), with ``test_list``.

    Rows are left out whose tests use more of the solution than one function, or pass bytes or complex numbers: neither
    can reach a program in a sandbox.
    """
    tests = tuple(row["test_list"])
    setup = row["test_setup_code"] if "text" in row else "\n".join(row["test_imports"])
    defined = [node for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    called = [node.name for node in defined if re.search(rf"\b{node.name}\(", tests[0])]
    if not called:
        raise ValueError("no function of the code is called by the first test")
    used = [node for source in (setup, *tests) for node in ast.walk(ast.parse(source))]
    names = {node.id for node in used if isinstance(node, ast.Name)} & {node.name for node in defined}
    if len(names) > 1 or any(
        isinstance(node, ast.Constant) and isinstance(node.value, bytes | complex) for node in used
    ):
        return None
    question = row["text"] if "text" in row else row["prompt"]
    shown = "\n".join(tests)
    return f"{question}\nThe code must pass these tests:\n```python\n{shown}\n```", CodeTests(called[0], tests, setup)


def verifiable(row: Row) -> tuple[str, CodeTests] | None:
    """``problem_statement`` and ``verification_info`` (open-r1, PrimeIntellect); other languages are left out."""
    info = row["verification_info"]
    info = json.loads(info) if isinstance(info, str) else info
    if info["language"] != "python":
        return None
    cases = info["test_cases"]
    if not cases:
        raise ValueError("there is no test case")
    name = cases[0].get("fn_name")
    if name is None:
        return row["problem_statement"], CodeTests(None, stdio=tuple((case["input"], case["output"]) for case in cases))
    tests = tuple(f"assert {name}(*{_value(case['input'])!r}) == {_value(case['output'])!r}" for case in cases)
    return row["problem_statement"], CodeTests(name, tests)


SHAPES = {shape.__name__: shape for shape in (math, humaneval, mbpp, verifiable)}


def last_box(solution: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` with balanced braces; None without one."""
    start = solution.rfind("\\boxed{")
    depth = 0
    for index in range(start + len("\\boxed"), len(solution) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(solution[index], 0)
        if depth == 0:
            return solution[start + len("\\boxed{") : index].strip()
    return None


def _text(value: Any) -> str:
    """A cell as text; 142.0 is 142."""
    if value is None:
        raise ValueError("a cell is empty")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _value(cell: Any) -> Any:
    """A test's input or output: a value, or JSON text of one."""
    return json.loads(cell) if isinstance(cell, str) else cell
