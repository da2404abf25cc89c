"""Shapes of rows: each function turns a row of a well-known layout into (question, reference), or None to leave it out.

The question is what the row asks; ``shown`` puts the shape's words around it. A function's keyword arguments are its
options. A missing column is a ``KeyError``, a bad value a ``ValueError``.
"""

from __future__ import annotations

import ast
import json
import math as numeric
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
        gold = last_box(_text(row, solution))
        if gold is None:
            return None
    else:
        gold = _text(row, answer).rpartition("####")[2].strip()
    gold = str((fix or {}).get(gold, gold))
    if numbers and not NUMBER.fullmatch(gold):
        return None
    if not gold:
        raise ValueError(f"column {solution or answer!r} holds an empty answer")
    return _text(row, question), gold


def humaneval(row: Row) -> tuple[str, CodeTests]:
    """``prompt``, ``test`` and ``entry_point`` of HumanEval.

    What stands before the function (imports, helpers) goes before the answer, and before the tests that call a helper:
    they have one of their own, whatever the answer makes of it.
    """
    prompt, name, test = (_text(row, column) for column in ("prompt", "entry_point", "test"))
    before = re.search(rf"^def {re.escape(name)}\b", prompt, re.MULTILINE)
    if before is None:
        raise ValueError(f"the prompt does not define {name}")
    given = prompt[: before.start()]
    return prompt, CodeTests(name, (f"{test}\ncheck({name})",), setup=given, preamble=given)


def mbpp(row: Row) -> tuple[str, CodeTests] | None:
    """MBPP, full (``text``, ``test_setup_code``) or sanitized (``prompt``, ``test_imports``), with ``test_list``.

    Rows are left out whose tests use more of the solution than one function, or pass bytes or complex numbers: neither
    can reach a program in a sandbox.
    """
    tests = row["test_list"]
    if not tests or not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"column 'test_list' is {'no list of tests' if tests else 'empty'}")
    question = _text(row, "text" if "text" in row else "prompt")
    setup = _lines(row, "test_setup_code" if "text" in row else "test_imports")
    defined = [n for n in _parsed(_text(row, "code"), "code").body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    called = [node.name for node in defined if re.search(rf"\b{node.name}\(", tests[0])]
    if not called:
        raise ValueError("no function of the code is called by the first test")
    used = [node for source in (setup, *tests) for node in ast.walk(_parsed(source, "test_list"))]
    names = {node.id for node in used if isinstance(node, ast.Name)} & {node.name for node in defined}
    if len(names) > 1 or any(
        isinstance(node, ast.Constant) and isinstance(node.value, bytes | complex) for node in used
    ):
        return None
    return question, CodeTests(called[0], tuple(tests), setup)


def verifiable(row: Row) -> tuple[str, CodeTests] | None:
    """``problem_statement`` and ``verification_info`` (open-r1, PrimeIntellect); other languages are left out."""
    question, packed = _text(row, "problem_statement"), row["verification_info"]
    if not packed:
        raise ValueError("column 'verification_info' is empty")
    info = _value(packed, "column 'verification_info'")
    if not isinstance(info, dict) or not {"language", "test_cases"} <= set(info):
        raise ValueError("column 'verification_info' has no language and test_cases")
    if info["language"] != "python":
        return None
    cases = info["test_cases"]
    if not cases or not isinstance(cases, list):
        raise ValueError("column 'verification_info' has no test case")
    if not all(isinstance(case, dict) and {"input", "output"} <= set(case) for case in cases):
        raise ValueError("a test case of column 'verification_info' has no input and output")
    name = cases[0].get("fn_name")
    if name is None:
        if not all(isinstance(case[side], str) for case in cases for side in ("input", "output")):
            raise ValueError("a program's input and output in column 'verification_info' are no texts")
        return question, CodeTests(None, stdio=tuple((case["input"], case["output"]) for case in cases))
    if not isinstance(name, str):
        raise ValueError(f"fn_name of column 'verification_info' is {name!r}, no name of a function")
    calls = [(_value(case["input"], "a test's input"), _value(case["output"], "a test's output")) for case in cases]
    return question, CodeTests(name, tuple(f"assert {name}(*{inputs!r}) == {output!r}" for inputs, output in calls))


SHAPES = {shape.__name__: shape for shape in (math, humaneval, mbpp, verifiable)}


def shown(shape: str, question: str, reference: str | CodeTests) -> str:
    """The question as the model sees it: with what form the answer has, and the tests that name the function."""
    if shape == "humaneval":
        return complete(question)
    if shape == "mbpp" and isinstance(reference, CodeTests):
        tests = "\n".join(reference.tests)
        return f"{question}\nThe code must pass these tests:\n```python\n{tests}\n```"
    return question


def complete(head: str) -> str:
    """The question that goes with a function's head and docstring."""
    return f"Complete this function. Answer with the whole function in a code block.\n```python\n{head.strip()}\n```"


def last_box(solution: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` with balanced braces; None without one."""
    start = solution.rfind("\\boxed{")
    depth = 0
    for index in range(start + len("\\boxed"), len(solution) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(solution[index], 0)
        if depth == 0:
            return solution[start + len("\\boxed{") : index].strip()
    return None


def _text(row: Row, column: str) -> str:
    """A cell as text that is not empty; 142.0 is 142."""
    value = row[column]
    if isinstance(value, list | dict):
        raise ValueError(f"column {column!r} holds {value!r}; one text or number is right")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    empty = value is None or (isinstance(value, float) and not numeric.isfinite(value)) or not str(value).strip()
    if empty:
        raise ValueError(f"column {column!r} is empty")
    return str(value)


def _lines(row: Row, column: str) -> str:
    """A cell of code: one text or a list of lines, which may be empty."""
    value = row[column] or ""
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"column {column!r} holds {value!r}; a text or a list of texts is right")
    return "\n".join(lines)


def _value(cell: Any, what: str) -> Any:
    """A value, or JSON text of one."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError as error:
        raise ValueError(f"{what} is no JSON ({error})") from error


def _parsed(source: str, column: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"column {column!r} is no Python ({error.msg})") from error
