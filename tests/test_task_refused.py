"""Options, files and rows of data sets that cannot be used: one message each."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_task_hub import HUMANEVAL, MBPP_FULL, refused

from pcr_run import task
from pcr_run.errors import ConfigError
from pcr_run.schema import TaskConfig

pytest_plugins = ["local_rows"]


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"answer": "Answer"}, "task.data.train", "no column 'Answer'; there are problem, answer"),
        ({"question": "q"}, "task.data.train", "no column 'q'"),
        ({"shape": "mbpp"}, "task.data.train", "no column 'test_list'"),
        ({"shape": "poem"}, "task.data.train.shape", "humaneval"),
        ({"colum": "x"}, "task.data.train.colum", "unknown option"),
        ({"keep": {"Year": {"max": 1}}}, "task.data.train.keep.Year", "there are problem, answer"),
        ({"keep": {"answer": {"below": 1}}}, "task.data.train.keep.answer", "min, max, values"),
        ({"keep": {"answer": {"min": 9}}}, "task.data.train", "keep lets through"),
        ({"keep": ["answer"]}, "task.data.train.keep", "a mapping or null"),
        ({"keep": {"answer": {"values": 1}}}, "task.data.train.keep.answer.values", "a list of values"),
        ({"keep": {"answer": {"match": "("}}}, "task.data.train.keep.answer.match", "no regular expression"),
        ({"fix": ["80"]}, "task.data.train.fix", "a mapping or null, not ['80']"),
        ({"question": 5}, "task.data.train.question", "text, not 5"),
        ({"numbers": 1}, "task.data.train.numbers", "true or false"),
        ({"split": 1}, "task.data.train.split", "text, not 1"),
        ({"rows": 0}, "task.data.train.rows", "from 1 on"),
        ({"sample": "two"}, "task.data.train.sample", "from 1 on"),
        ({"rows": 2, "sample": 1}, "task.data.train.rows", "has 1 usable rows, 2 are right"),
    ],
)
def test_wrong_options_are_named(write, options, key, words) -> None:
    path = write([{"problem": "q", "answer": 1}])
    error = refused({"path": path, **options})
    assert error.key == key
    assert words in str(error)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"problem": "q", "answer": ""}, "row 1 of"),
        ({"problem": "q", "answer": "#### "}, "column 'answer' holds an empty answer"),
        ({"problem": "q", "answer": None}, "column 'answer' is empty"),
        ({"problem": None, "answer": "2"}, "column 'problem' is empty"),
        ({"problem": " ", "answer": "2"}, "column 'problem' is empty"),
    ],
)
def test_bad_rows_are_refused_by_number(write, row, words) -> None:
    error = refused({"path": write([{"problem": "p", "answer": "1"}, row])})
    assert words in str(error)
    assert "row 1" in str(error)


def test_files_that_cannot_be_read_are_refused(write, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("bad.jsonl", "empty.jsonl", "missing.jsonl"):
        error = refused({"path": str(tmp_path / name)})
        assert error.key == "task.data.train"
        assert name in str(error)
    assert refused({}).key == "task.data.train.path"


def test_files_without_rows_or_with_different_columns_are_refused(write, tmp_path: Path) -> None:
    (tmp_path / "head.csv").write_text("problem,answer\n")
    (tmp_path / "none.json").write_text("[]")
    for name in ("head.csv", "none.json"):
        assert "has no row" in str(refused({"path": str(tmp_path / name)}))
    write([{"problem": "q", "answer": "1"}], "a1.jsonl")
    write([{"question": "q", "answer": "1"}], "a2.jsonl")
    assert "differ in their columns" in str(refused({"path": str(tmp_path / "a*.jsonl")}))


@pytest.mark.parametrize(
    ("shape", "row", "words"),
    [
        ("mbpp", {**MBPP_FULL, "code": "def f(:"}, "column 'code' is no Python"),
        ("mbpp", {**MBPP_FULL, "test_list": ["assert double( =="]}, "column 'test_list' is no Python"),
        ("mbpp", {**MBPP_FULL, "test_list": "assert double(1)"}, "no list of tests"),
        (
            "mbpp",
            {**MBPP_FULL, "test_setup_code": [1]},
            "column 'test_setup_code' holds [1]; a text or a list of texts",
        ),
        ("humaneval", {**HUMANEVAL, "entry_point": "volume"}, "does not define volume"),
        ("verifiable", {"problem_statement": "a", "verification_info": "{"}, "is no JSON"),
        ("verifiable", {"problem_statement": "a", "verification_info": "[1]"}, "no language and test_cases"),
        *(
            ("verifiable", {"problem_statement": "a", "verification_info": {"language": "python", **cases}}, words)
            for cases, words in (
                ({"test_cases": []}, "no test case"),
                ({"test_cases": 3}, "no test case"),
                ({"test_cases": [{"fn_name": 3, "input": "[1]", "output": "1"}]}, "3, no name of a function"),
                ({"test_cases": [{"input": "1"}]}, "no input and output"),
                ({"test_cases": [{"fn_name": None, "input": 1, "output": 2}]}, "no texts"),
                ({"test_cases": [{"fn_name": "f", "input": "[1]", "output": "("}]}, "a test's output is no JSON"),
            )
        ),
    ],
)
def test_code_that_no_answer_could_be_held_against_is_refused(write, shape, row, words) -> None:
    error = refused({"path": write([row]), "shape": shape})
    assert words in str(error)
    assert "row 0 of" in str(error)


def test_options_of_the_wrong_kind_are_refused_with_the_task(write) -> None:
    test = {"path": write([{"problem": "q", "answer": 1}])}
    for wrong, right in (
        ({"suffix": None}, "text"),
        ({"shots": "1"}, "a whole number"),
        ({"train": "a.csv"}, "a mapping"),
    ):
        with pytest.raises(ConfigError, match=f"{right}.*, not ") as error:
            task.make(TaskConfig("t", "math", {"source": "hub", "train": None, "test": test, **wrong}), 0)
        assert error.value.key == f"task.data.{next(iter(wrong))}"


def test_a_hub_id_without_a_network_says_what_to_do() -> None:
    error = refused({"path": "someone/no-such-data-0"})
    assert "without network give local files" in str(error)
