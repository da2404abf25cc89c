"""Data sets of the well-known layouts, from local files of the same columns."""

from __future__ import annotations

import json

import pytest

from pcr_run import task
from pcr_run.data import CodeTests
from pcr_run.errors import ConfigError
from pcr_run.schema import TaskConfig
from pcr_run.task import hub, table, text

pytest_plugins = ["local_rows"]

AIME = [
    {"ID": "1983-1", "Year": 1983, "Problem Number": 1, "Question": "Find x.", "Answer": "60", "Part": None},
    {"ID": "2022-II-8", "Year": 2022, "Problem Number": 8, "Question": "Find n.", "Answer": "080 or 081", "Part": "II"},
    {"ID": "2023-I-1", "Year": 2023, "Problem Number": 1, "Question": "Find p.", "Answer": "012", "Part": "I"},
    {"ID": "2024-I-1", "Year": 2024, "Problem Number": 1, "Question": "Find q.", "Answer": "7", "Part": "I"},
]
NUMINA = [
    {"source": "olympiads", "problem": "Prove it.", "solution": "Obvious.", "messages": []},
    {"source": "amc", "problem": "A half?", "solution": "So \\boxed{2}, no: $\\boxed{\\frac{1}{2}}$.", "messages": []},
    {"source": "amc", "problem": "Which?", "solution": "It is $\\boxed{\\text{(B) } x^{2}}$", "messages": []},
    {"source": "amc", "problem": "Cut off?", "solution": "\\boxed{12", "messages": []},
    {"source": "amc", "problem": "Many?", "solution": "\\boxed{1,234}", "messages": []},
]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    '''Area of a circle.'''\n",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159) < 1e-4\n",
    "entry_point": "area",
}
MBPP_FULL = {
    "task_id": 2,
    "text": "Write a function to double.",
    "code": "def helper(x):\n    return x\n\ndef double(x):\n    return helper(2 * x)",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}
MBPP_SANITIZED = {
    "source_file": "b.ipynb",
    "task_id": 2,
    "prompt": "Write a function for shared elements.",
    "code": "def similar(a, b):\n    return tuple(set(a) & set(b))",
    "test_imports": ["import math", "import re"],
    "test_list": ["assert set(similar((3, 4),(4, 5))) == set((4,))"],
}


def rows(options: dict) -> list[tuple[str, object]]:
    return [(item.prompt[-1]["content"], item.reference) for item in hub.items("task.data.train", options)]


def refused(options: dict) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        hub.items("task.data.train", options)
    return error.value


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_aime_up_to_2023_with_its_one_double_answer_mended(write, name: str) -> None:
    options = {
        "path": write(AIME, name),
        "question": "Question",
        "answer": "Answer",
        "keep": {"Year": {"max": 2023}},
        "fix": {"080 or 081": "80"},
    }
    assert rows(options) == [("Find x.", "60"), ("Find n.", "80"), ("Find p.", "012")]


def test_numina_answers_are_the_last_box_and_proofs_are_left_out(write) -> None:
    options = {"path": write(NUMINA), "solution": "solution"}
    assert rows(options) == [
        ("A half?", "\\frac{1}{2}"),
        ("Which?", "\\text{(B) } x^{2}"),
        ("Many?", "1,234"),
    ]
    assert [answer for _, answer in rows({**options, "numbers": True})] == ["\\frac{1}{2}", "1,234"]


def test_gsm8k_and_float_answers(write) -> None:
    gsm = [{"question": "q", "answer": "2 + 2 = 4\n#### 4"}]
    assert rows({"path": write(gsm), "question": "question"}) == [("q", "4")]
    assert rows({"path": write([{"problem": "q", "answer": 142.0}], "amc.jsonl")}) == [("q", "142")]


def test_a_sample_takes_usable_rows_and_is_always_the_same(write) -> None:
    many = [{"problem": f"q{i}", "solution": f"\\boxed{{{i}}}" if i % 2 else "proof"} for i in range(100)]
    options = {"path": write(many), "solution": "solution", "sample": 10}
    first = rows(options)
    assert len(set(first)) == 10
    assert first == rows(options) != rows({**options, "sample": 50})[40:]
    assert [answer for _, answer in first] != sorted((answer for _, answer in first), key=int)
    assert refused({**options, "sample": 51}).key == "task.data.train.sample"


def test_humaneval_rows_carry_what_stands_before_the_function(write) -> None:
    ((question, tests),) = rows({"path": write([HUMANEVAL]), "shape": "humaneval"})
    assert "def area(r)" in question
    given = "import math\n\n\ndef helper(x):\n    return x\n\n\n"
    assert tests == CodeTests("area", (HUMANEVAL["test"] + "\ncheck(area)",), setup=given, preamble=given)


def test_mbpp_rows_name_the_function_that_the_tests_call(write) -> None:
    ((question, tests),) = rows({"path": write([MBPP_FULL]), "shape": "mbpp"})
    assert tests == CodeTests("double", tuple(MBPP_FULL["test_list"]), setup="import math")
    assert "assert double(2) == 4" in question
    ((_, tests),) = rows({"path": write([MBPP_SANITIZED], "s.jsonl"), "shape": "mbpp"})
    assert tests == CodeTests("similar", tuple(MBPP_SANITIZED["test_list"]), setup="import math\nimport re")


def test_imports_of_mbpp_may_be_one_text(write) -> None:
    row = {**MBPP_SANITIZED, "test_imports": "import math\nimport re"}
    ((_, tests),) = rows({"path": write([row]), "shape": "mbpp"})
    assert tests.setup == "import math\nimport re"


def test_mbpp_rows_whose_tests_cannot_call_a_sandbox_are_left_out(write) -> None:
    pair = "class Pair:\n    def __init__(self, a): self.a = a\n"
    objects = {
        **MBPP_FULL,
        "code": pair + "def double(p): return 2 * p.a",
        "test_list": ["assert double(Pair(1)) == 2"],
    }
    built = {**MBPP_FULL, "code": pair + "def double(p): return 2 * p.a", "test_setup_code": "p = Pair(1)"}
    unusual = [{**MBPP_FULL, "test_list": [f"assert double({value}) == 0"]} for value in ("1j", "b'x'")]
    assert len(rows({"path": write([objects, MBPP_FULL, built, *unusual]), "shape": "mbpp"})) == 1


@pytest.mark.parametrize("packed", [json.dumps, dict])
def test_verifiable_coding_rows_are_programs_or_functions(write, packed) -> None:
    program = {
        "language": "python",
        "test_cases": [{"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin"}],
    }
    found = rows(
        {"path": write([{"problem_statement": "Add.", "verification_info": packed(program)}]), "shape": "verifiable"}
    )
    assert found == [("Add.", CodeTests(None, stdio=(("1 2\n", "3\n"),)))]
    function = {
        "language": "python",
        "test_cases": [{"fn_name": "add", "input": "[1, [2]]", "output": "[1, 2]", "type": "function_call"}],
    }
    found = rows(
        {
            "path": write([{"problem_statement": "Add.", "verification_info": packed(function)}], "f.jsonl"),
            "shape": "verifiable",
        }
    )
    assert found == [("Add.", CodeTests("add", ("assert add(*[1, [2]]) == [1, 2]",)))]


def test_other_languages_are_left_out(write) -> None:
    info = json.dumps({"language": "java", "test_cases": []})
    path = write([{"problem_statement": "Add.", "verification_info": info}])
    assert "no usable row" in str(refused({"path": path, "shape": "verifiable"}))


def test_training_questions_that_are_held_out_are_dropped(write, caplog) -> None:
    train = write([{"problem": "Same  question", "answer": 1}, {"problem": "other", "answer": 2}], "train.jsonl")
    test = write([{"problem": "Same question", "answer": 1}], "test.jsonl")
    made = task.make(
        TaskConfig(
            "t", "math", {"source": "hub", "train": {"path": train}, "test": {"path": test}, "suffix": " Think."}
        ),
        0,
    )
    assert [item.prompt[-1]["content"] for item in made.train] == ["other Think."]
    assert "1 training questions" in caplog.text


def test_several_benchmarks_without_training_questions(write) -> None:
    files = [write([{"problem": f"q{i}", "answer": i}], f"{i}.jsonl") for i in range(2)]
    data = {"source": "hub", "train": None, "test": [{"path": file} for file in files], "system": "Be brief."}
    made = task.make(TaskConfig("t", "math", data), 0)
    assert made.train == []
    assert [item.prompt[0]["content"] for item in made.test] == ["Be brief."] * 2
    assert len({item.id for item in made.test}) == 2


def test_a_part_of_a_split_and_rules_by_column(write) -> None:
    path = write([{"problem": f"q{i}", "answer": i, "url": f"{2021 + i}_AMC"} for i in range(5)])
    assert len(rows({"path": path, "split": "train[:2]"})) == 2
    keep = {"url": {"match": "202[2-4]_AMC$"}, "answer": {"except": [2]}}
    assert rows({"path": path, "keep": keep, "rows": 2}) == [("q1", "1"), ("q3", "3")]
    assert [item.id for item in hub.items("k", {"path": path, "keep": keep})] == [f"{path}/1", f"{path}/3"]


def test_a_shuffled_order_is_a_permutation() -> None:
    assert sorted(table.shuffled(50)) == list(range(50)) != table.shuffled(50)


def test_texts_from_a_column_without_empty_rows(write) -> None:
    path = write([{"page": "one"}, {"page": " \n"}, {"page": "two"}])
    assert text.load({"source": "hub", "path": path, "column": "page"}) == ["one", "two"]
    with pytest.raises(ConfigError, match="no column 'text'; there are page"):
        text.load({"source": "hub", "path": path})
