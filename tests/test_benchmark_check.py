"""`make bench-check` calls a ratio worse where it is, and not where the machine is only noisy."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHECK = runpy.run_path(str(BENCHMARKS / "learner_check.py"))


def ratios(median: float, noise: float, rounds: int, seed: int) -> list[float]:
    """Times of two steps in each round, both held up by other processes, some of them a lot."""
    generator = np.random.default_rng(seed)
    slowed = 1 + noise * generator.exponential(size=(2, rounds))
    return list(median * slowed[0] / slowed[1])


def verdicts(median: float, noise: float, rounds: int) -> list[str]:
    return [CHECK["judge"](ratios(median, noise, rounds, seed), 1.5 * 1.1, False) for seed in range(200)]


@pytest.mark.parametrize("rounds", [5, 11])
def test_what_is_as_fast_as_before_passes_on_a_noisy_machine(rounds: int) -> None:
    assert verdicts(1.5, 0.02, rounds).count("worse") == 0
    assert verdicts(1.5, 0.5, rounds).count("worse") <= 200 * CHECK["LEVEL"]  # where most rounds are far off


def test_what_became_slower_fails() -> None:
    assert verdicts(1.5 * 1.2, 0.02, 5).count("worse") > 190
    assert verdicts(1.5 * 1.3, 0.1, 11).count("worse") > 190


def test_a_ratio_on_the_bound_is_called_worse_no_more_often_than_the_level_says() -> None:
    assert verdicts(1.5 * 1.1, 0.3, 11).count("worse") <= 200 * CHECK["LEVEL"]


def test_each_ratio_has_its_own_baseline_and_that_of_trl_may_only_shrink() -> None:
    def row(ratio: float) -> dict[str, object]:
        return {"to_none": ratio, "ratios": [ratio] * 5}

    found = [
        {"size": "tiny", "zero": 0.0, "none": row(1.0), "pcr-twin": row(1.7), "trl": row(1.4)},
        {"size": "tiny", "zero": 0.5, "none": row(1.0), "pcr-twin": row(9.0)},
    ]
    baselines = [
        {"size": "tiny", "zero": 0.0, "pcr-twin": {"to_none": 1.5}, "trl": {"to_none": 1.5}, "gone": {"to_none": 1.0}}
    ]
    made = CHECK["outcomes"](found, baselines)
    assert [(each.learner, each.verdict) for each in made] == [("pcr-twin", "worse"), ("trl", "good")]
    found[0]["trl"] = row(1.3)
    assert CHECK["outcomes"](found, baselines)[1].verdict == "worse"


def test_a_check_of_too_few_rounds_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "argv", ["learner.py", "--check", "baselines/cpu.json", "--rounds", "4"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "learner.py"))["main"]()
    assert ended.value.code == 2
    assert "--rounds of at least 5" in capsys.readouterr().err
