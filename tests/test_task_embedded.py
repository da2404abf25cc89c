"""The embedded questions: right answers, right tests, and a corpus that never shows what is held out."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from pcr_run.errors import ConfigError
from pcr_run.model import corpus
from pcr_run.task import arithmetic, functions, text


def passes(item, program: str) -> bool:
    """Run one of our own programs against an item's tests."""
    namespace: dict = {}
    exec(program, namespace)
    try:
        for test in item.reference.tests:
            exec(test, namespace)
    except (AssertionError, TypeError):
        return False
    return True


def test_answers_are_the_value_of_the_chain() -> None:
    for item in arithmetic.load(0)[1]:
        expression = item.prompt[-1]["content"].removeprefix("Compute ").removesuffix(".")
        assert int(item.reference) == eval(expression)  # digits and signs that we wrote


@pytest.mark.parametrize("level", arithmetic.LEVELS)
def test_running_values_stay_in_range(level: int) -> None:
    rng = random.Random(level)
    for _ in range(300):
        chain = arithmetic.sample(rng, level)
        values = [chain.start + sum(chain.terms[:n]) for n in range(level + 1)]
        assert all(0 <= value <= arithmetic.LARGEST for value in values)


def test_expected_values_follow_from_the_words() -> None:
    add, multiply = functions.FAMILIES["number"][0], functions.FAMILIES["number"][2]
    spec = functions.Specification("number", ((add, 3), (multiply, 4)))
    assert str(spec) == "number: add 3, multiply by 4"
    assert spec.program() == "def f(x):\n    x = x + 3\n    return x * 4"
    assert "assert f(7) == 40" in functions.item(spec).reference.tests


def test_every_operation_and_constant_is_told_apart_by_the_tests() -> None:
    for family, operations in functions.FAMILIES.items():
        programs = {}
        for operation in operations:
            for k in range(operation.low, operation.high + 1):
                spec = functions.Specification(family, ((operation, k),))
                programs[spec.program()] = functions.item(spec)
        for program, item in programs.items():
            assert [other for other in programs if passes(item, other)] == [program]


def test_the_corpus_holds_no_held_out_question_or_sentence() -> None:
    held_out = {item.prompt[-1]["content"] for load in (arithmetic.load, functions.load) for item in load(0)[1]}
    held_out |= set(text.load({"source": "embedded"}))
    seen = {document.prompt or document.text for document in islice(corpus.documents(0), 20_000)}
    assert len(seen) > 5_000
    assert not seen & held_out


def test_writers_slip_more_often_in_later_steps() -> None:
    right: dict[int, list[bool]] = {}
    for document in islice(corpus.documents(0), 20_000):
        if document.prompt is not None and document.prompt.startswith("Compute"):
            expression = document.prompt.removeprefix("Compute ").removesuffix(".")
            box = document.text.rpartition("\\boxed{")[2].removesuffix("}")
            right.setdefault(document.text.count("="), []).append(int(box) == eval(expression))
    shares = {level: sum(found) / len(found) for level, found in right.items()}
    expected = 1.0
    for level in arithmetic.LEVELS:
        expected *= 1 - corpus.SLIP * level
        # Two slips may cancel, so a little above; 4 standard errors of some 2,000 documents.
        assert expected - 0.045 < shares[level] < expected + 0.075


@pytest.mark.parametrize("source", ["embedded", "topics"])
def test_held_out_texts_are_the_same_every_time(source: str) -> None:
    documents = text.load({"source": source, "documents": 20})
    assert documents == text.load({"source": source, "documents": 20})
    assert len(set(documents)) == 20
    assert all(len(document.split()) >= 5 for document in documents)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source": "wiki"}, "evaluation.text.source"),
        ({"source": "embedded", "rows": 3}, "evaluation.text.rows"),
        ({"source": "embedded", "documents": 0}, "evaluation.text"),
    ],
)
def test_bad_texts_are_named(options, key) -> None:
    with pytest.raises(ConfigError) as error:
        text.load(options)
    assert error.value.key == key
