"""Training questions that are held out as well: which are the same, which share 13 words in a row."""

from __future__ import annotations

import io
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from pcr_run import task
from pcr_run.data import Item, Overlap, Task
from pcr_run.errors import ConfigError
from pcr_run.run.parts import make_tasks
from pcr_run.schema import Config, TaskConfig
from pcr_run.task import overlap
from pcr_run.tracker import summary

pytest_plugins = ["local_rows"]

LONG = "Let $ABC$ be a triangle with sides 13, 14 and 15, and let P be a point on the side BC."
AIME = "can be written as \\frac{m}{n}, where m and n are relatively prime positive integers. Find m + n."


def made(name: str, train: list[str], test: list[str]) -> Task:
    def items(side: str, questions: list[str]) -> list[Item]:
        return [Item(f"{side}/{i}", ({"role": "user", "content": text},), "1") for i, text in enumerate(questions)]

    return Task(name, "math", items("train", train), items("test", test))


def counted(train: list[str], test: list[str]) -> tuple[int, int]:
    each = made("t", [*train, "of its own"], test)
    found = overlap.apart(each, [each]).overlap["t"]
    return found.same, found.ngram


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is  2 + 2?", "what is 2+2"),
        ("Find $x$ if $x^2 = 4$.", r"Find \(x\) if \[ x^{2}=4 \]"),
        (r"Compute $\left( a + b \right)\,c$", "Compute $(a+b) c$."),
        (r"Evaluate $\dfrac{1}{2}+\tfrac34$", r"Evaluate \frac12 + \frac{3}{4}"),
        (r"$3\cdot 4\quad x \leq 5$", "3·4 x ≤ 5"),
        ("The interval [1, 2] – pages 3—4, x − y", "The interval [1,2] - pages 3-4, x - y"),
        ("Say “one”, it’s 10,000", "Say 'one', it's 10{,}000"),
        (r"There are $10,\!000$ of 5\%", "There are 10000 of 5%"),
        ("Go on! Find n!", "go on, find n!"),
        ("Find x²+y¹³", "Find $x^2 + y^{13}$"),
        ("\uff21\uff22\uff23 is a triangle", "ABC is a triangle."),
        ("Line one.\nLine  two.", "Line one.\\\\ Line two."),
        (r"\textbf{Find} the area in \text{cm}", "Find the area in cm"),
        ("def f(x):\n    '''Double x.'''\n", 'def f( x ):\n\t"""Double x."""'),
    ],
)
def test_the_same_question_written_in_two_ways(one: str, other: str) -> None:
    assert counted([one], [other]) == (1, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 5+3-2.", "Compute 5-3+2."),
        ("Compute 5+3-2.", "Compute 5+32."),
        ("Compute 1.5", "Compute 15"),
        ("Compute 1 2", "Compute 12"),
        ("Compute 5!", "Compute 5"),
        ("Compute f(1, 2)", "Compute f(12)"),
        (r"Compute \frac{1}{23}", r"Compute \frac{12}{3}"),
        ("Is x < 3?", "Is x > 3?"),
        ("Compute 2×3", "Compute 2÷3"),
        ("", "."),
    ],
)
def test_two_questions_that_differ_in_a_sign_or_a_number(one: str, other: str) -> None:
    assert counted([one], [other]) == (0, 0)


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none() -> None:
    words = [f"word{chr(97 + i)}" for i in range(26)]
    thirteen, twelve = " ".join(words[:13]), " ".join(words[:12])
    assert counted([f"So {thirteen} here"], [f"And {thirteen}, there"]) == (0, 1)
    assert counted([f"So {twelve} here"], [f"And {twelve} there"]) == (0, 0)
    assert counted([f"So {twelve}"], [twelve]) == (0, 0)  # a short question has no 13 words
    assert counted([thirteen.upper().replace(" ", "\\;\n")], [f"And {thirteen}"]) == (0, 1)


def test_a_name_with_a_number_is_one_word_and_a_drawing_is_none() -> None:
    def names(first: int, count: int) -> str:
        return " ".join(f"word{index}" for index in range(first, first + count))

    assert counted([names(0, 12)], [names(0, 20)]) == (0, 0)
    assert counted([names(7, 13)], [names(0, 20)]) == (0, 1)
    drawing = f"[asy]\n{names(0, 20)}\n[/asy]"
    assert counted([f"Find p. {drawing}"], [f"Find q. {drawing}"]) == (0, 0)


def test_the_question_that_shares_most_is_named(caplog) -> None:
    counted(["Nothing.", f"{LONG[:60]} Hm.", f"{LONG} What is PA?"], [f"{LONG} What is PB?"])
    assert "2 training questions share 13 words in a row with a held-out one of t (the most: train/2)" in caplog.text


def test_phrases_of_the_field_are_no_overlap_and_copies_of_one_question_are() -> None:
    train = [f"The sum of {name} {name} {AIME}" for name in "abcdefghijkl"]
    assert counted(train, [f"The area {AIME}"]) == (0, 0)
    assert counted(train[: overlap.COMMON], [f"The area {AIME}"]) == (0, overlap.COMMON)
    assert counted(12 * [f"{LONG} What is PA?"], [f"{LONG} What is PB?"]) == (0, 12)


def test_the_same_ones_go_and_shared_words_stay_unless_they_are_to_go() -> None:
    train = made("math", [LONG, f"{LONG} What is PA?", "Short."], [LONG.upper()])
    other = made("other", [], [f"{LONG} What is PB?", "short"])
    kept = overlap.apart(train, [train, other])
    assert [item.id for item in kept.train] == ["train/1"]
    assert kept.overlap == {"math": Overlap(1, 1, 3, 1), "other": Overlap(1, 1, 3, 2)}
    with pytest.raises(ConfigError, match="every training question of math is also held out"):
        overlap.apart(train, [train, other], drop=True)
    more = made("math", [LONG, "Quite another."], [f"{LONG} What is PB?"])
    assert [item.id for item in overlap.apart(more, [more], drop=True).train] == ["train/1"]


def hub(name: str, **data) -> TaskConfig:
    return TaskConfig(name, data.pop("verifier", "math"), {"source": "hub", "train": None, **data})


def test_what_stands_around_a_question_does_not_count(write) -> None:
    def aloud(name: str, question: str) -> str:
        return write([{"problem": question, "answer": 1}, {"problem": name, "answer": 1}], name)

    instruction = " Think step by step and write at the end of all your thoughts the final answer within \\boxed{}."
    train = {"path": aloud("train.jsonl", "What is $1 + 1$?")}
    trained = hub("math", train=train, test={"path": aloud("test.jsonl", "What is 2?")}, suffix=instruction)
    measured = {"path": aloud("measured.jsonl", "What is 1+1")}
    cfg = Config(task=trained)
    for name, more in {
        "plain": {},
        "same": {"suffix": instruction},
        "other": {"system": "Be brief.", "suffix": "!"},
    }.items():
        cfg.evaluation.tasks[name] = hub(name, test=measured, **more)
    main, others = make_tasks(cfg)
    assert [item.question for item in main.train] == ["train.jsonl"]
    assert {name: (found.same, found.ngram) for name, found in main.overlap.items()} == {
        "math": (0, 0),
        "plain": (1, 0),
        "same": (1, 0),
        "other": (1, 0),
    }
    assert [len(other.test) for other in others] == [2, 2, 2]


def test_code_is_compared_without_its_instructions_tests_and_examples(write) -> None:
    def row(name: str, text: str) -> dict:
        prompt = f'def {name}(x):\n    """{text}"""\n'
        test = f"def check(candidate):\n    assert {name}"
        return {"prompt": prompt, "entry_point": name, "test": test, "canonical_solution": "", "task_id": name}

    train = [row("one", "Double it."), row("two", "Halve it.")]
    test = [row("one", "Double  it"), row("six", "Sort it.")]
    data = {"train": {"path": write(train, "a.jsonl"), "shape": "humaneval"}, "shots": 2}
    data["test"] = {"path": write(test, "b.jsonl"), "shape": "humaneval"}
    assert task.make(hub("code", verifier="sandbox", **data), 0).overlap == {"code": Overlap(1, 0, 2, 2)}


@pytest.mark.parametrize("source", ["arithmetic", "functions"])
def test_embedded_questions_are_all_kept(source: str) -> None:
    embedded = task.make(TaskConfig("t", "math", {"source": source}), seed=0)
    assert embedded.overlap == {"t": Overlap(0, 0, 512, 128)}
    assert len(embedded.train) == 512


def test_many_questions_with_one_template() -> None:
    rng = random.Random(0)
    names = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(10_000)]
    train = [f"{' '.join(rng.choices(names, k=20))} {AIME}" for _ in range(500)]
    assert counted([*train, train[0] + " Also n."], [train[0] + "!", *train[1:3]]) == (3, 1)


def test_the_end_of_a_run_tells_of_an_overlap_and_not_of_none(tmp_path: Path) -> None:
    overlaps = {"math": Overlap(2, 3, 900, 30), "code": Overlap(0, 0, 900, 164)}
    result = {"task": "math", "resolver": "pcr", "seed": 0}
    out = io.StringIO()
    found = {name: asdict(each) for name, each in overlaps.items()}
    summary.show({**result, "overlap": found}, tmp_path, Console(file=out, width=100))
    assert (
        "math: 2 of 900 training questions are among its 30 held-out ones; they were not trained on" in out.getvalue()
    )
    assert "math: 3 of 900 training questions share 13 words in a row with one of its 30" in out.getvalue()
    assert "code" not in out.getvalue()
