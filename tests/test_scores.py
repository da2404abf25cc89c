"""Scores of several samples per question against their definitions."""

import itertools
import math

import pytest

from pcr_run.data import Completion, Item, Sampling, Score
from pcr_run.evaluation import Evaluator, Questions
from pcr_run.evaluation.scores import majority, pass_at_1, pass_at_k, scores
from pcr_run.schema import RewardConfig


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(n) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * correct + [False] * (n - correct)
        draws = [any(draw) for draw in itertools.combinations(samples, k)]
        assert pass_at_k(correct, n, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_samples_neither_overflows_nor_leaves_its_range() -> None:
    values = [pass_at_k(3, 10_000, k) for k in (1, 100, 5_000, 9_997, 9_998, 10_000)]
    assert values[0] == pytest.approx(3e-4)
    assert values == sorted(values)
    assert values[-2:] == [1.0, 1.0]


VOTES = [
    ("right more often", [1, 1, 0], ["5", "05", "7"], 1.0),
    ("wrong more often", [1, 0, 0], ["5", "7", "7"], 0.0),
    ("a draw", [1, 0], ["5", "7"], 0.5),
    ("a draw of three", [1, 0, 0], ["5", "7", "8"], 1 / 3),
    ("right in two spellings", [1, 1, 0, 0], ["1/2", "0.5", "7", "8"], 1.0),
    ("none answers", [0, 0], ["", ""], 0.0),
    ("who does not answer does not vote", [1, 0, 0, 0], ["5", "", "", ""], 1.0),
    ("all wrong", [0, 0, 0], ["7", "7", "8"], 0.0),
]


@pytest.mark.parametrize(("_", "correct", "answers", "value"), VOTES, ids=[case[0] for case in VOTES])
def test_the_majority_decides(_, correct, answers, value) -> None:
    assert majority([bool(x) for x in correct], answers) == pytest.approx(value)


def test_scores_of_questions_are_means_with_questions_as_clusters() -> None:
    correct = [True, False, False, False] + [True] * 4 + [False] * 4
    found = scores(correct, ["5", "7", "7", "7"] + ["5"] * 4 + [""] * 4, 4)
    assert found["correct"] == [1, 4, 0]
    assert found["per_question"] == [0.25, 1.0, 0.0]
    assert {key: found[key] for key in ("pass@1", "stderr", "questions")} == pass_at_1([0.25, 1.0, 0.0])
    assert list(found["pass@k"]) == ["1", "2", "4"]
    assert found["pass@k"]["1"] == {"value": found["pass@1"], "stderr": found["stderr"]}
    assert found["pass@k"]["2"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["pass@k"]["4"]["value"] == pytest.approx(2 / 3)
    assert found["maj@n"]["value"] == pytest.approx(1 / 3)
    assert list(scores([True] * 6, None, 6)["pass@k"]) == ["1", "2", "4", "6"]
    assert "maj@n" not in scores([True], None, 1)
    assert math.isnan(scores([True], None, 1)["stderr"])


class Sampler:
    """Answers the first question rightly at every second sample, the others never."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def generate(self, prompts, n, sampling, seed):
        self.asked.append((len(prompts), n))
        for p in range(len(prompts)):
            yield {p: [Completion((p, i), (0.0, 0.0), "length" if i == 0 else "stop") for i in range(n)]}


def test_each_benchmark_has_as_many_samples_as_it_asks_for() -> None:
    def verifier(items, texts):
        right = [text.startswith("0 ") and int(text[2:]) % 2 == 0 for text in texts]
        return [Score(float(ok), "correct" if ok else "wrong", answer="a") for ok in right]

    items = [Item("1", (), "1"), Item("2", (), "2")]
    tasks = [
        Questions("few", items, [[1], [2]], verifier, votes=True),
        Questions("many", items, [[1], [2]], verifier, n=8),
    ]
    sampling, limits = Sampling(temperature=0.6), RewardConfig(name="verifier", verifier="math")
    worker = Sampler()
    found = Evaluator(tasks, [], 2, sampling, 0, limits)(worker, None, lambda ids: f"{ids[0]} {ids[1]}")
    assert worker.asked == [(2, 2), (2, 8)]
    few, many = found["tasks"]["few"], found["tasks"]["many"]
    assert (few["n"], few["correct"], few["truncated"]) == (2, [1, 0], 0.5)
    assert (many["n"], many["correct"], many["truncated"]) == (8, [4, 0], 1 / 8)
    assert many["pass@k"]["8"]["value"] == 0.5
    assert "maj@n" in few
    assert "maj@n" not in many
