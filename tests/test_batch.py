"""Rows are dealt out to microbatches: each once, groups whole where they fit, within the budget."""

from __future__ import annotations

import copy

import pytest
import torch
from brute_force import ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st
from test_learner import batch, drift, gradients, llama, make

from pcr_run.learner.batch import deal

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8).flatmap(
    lambda first: st.tuples(
        *[st.lists(st.integers(1, 40), min_size=4, max_size=4)] * len(first),
    )
)


@given(LENGTHS, st.integers(1, 200), st.integers(1, 40), st.booleans(), st.randoms())
def test_every_row_comes_once_and_budgets_hold(groups, budget, most, packed, random) -> None:
    lengths = [length for group in groups for length in group]
    informative = [random.random() < 0.5 for _ in lengths]
    parts = list(
        deal(lengths, informative, together=4, rows=8, tokens=budget, most=most, packed=packed),
    )
    assert sorted(i for part in parts for i in part.rows) == list(range(len(lengths)))
    for part in parts:
        size = [lengths[i] for i in part.rows]
        assert len(part.rows) <= most
        assert len(part.rows) == 1 or (sum(size) if packed else len(size) * max(size)) <= budget
        groups_of = {i // 4 for i in part.rows}
        signal = [any(informative[4 * g : 4 * g + 4]) for g in groups_of]
        assert all(kind is part.informative for kind in signal)
    for g in range(len(groups)):
        members = [number for number, part in enumerate(parts) if any(i // 4 == g for i in part.rows)]
        size = lengths[4 * g : 4 * g + 4]
        fits = most >= 4 and (sum(size) if packed else 4 * max(size)) <= budget
        assert len(members) == 1 or not fits
        assert members == list(range(members[0], members[-1] + 1))  # a group that is cut comes in one go


def test_without_a_budget_rows_are_counted() -> None:
    parts = list(deal([5] * 12, [True] * 12, together=4, rows=8, tokens=None, most=100, packed=True))
    assert [part.rows for part in parts] == [list(range(8)), list(range(8, 12))]


OPTIONS = [
    {"engine": "portable"},
    {"engine": "twin"},
    {"engine": "twin", "gradient_checkpointing": True},
    *({"tokens": tokens} for tokens in (1, 9, 17, 1000)),
    {"engine": "portable", "tokens": 9},
]


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("unit", ["response", "query", "microbatch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_neither_engine_nor_budget_changes_a_step(options: dict[str, object], unit: str) -> None:
    outcomes = []
    for more in ({"engine": "portable"}, options):
        torch.manual_seed(0)
        model = ARCHITECTURES["gpt2"]()
        learner = make(model, "pcr", **more)
        learner.measure.unit = unit
        drift(model)
        data = batch()
        data.advantages[:3] = 0  # a group without a signal
        _, rows = learner.update(data, step=1)
        outcomes.append((gradients(model), rows))
    (plain, before), (other, after) = outcomes
    for name, gradient in plain.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-10, atol=1e-14)
    for row, again in zip(before, after, strict=True):
        for key in ("pp", "ps", "ss", "var_pla", "var_sta", "alpha", "b"):
            assert again[key] == pytest.approx(row[key], rel=1e-9, abs=1e-20), key


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_architecture_depends_on_engine_or_budget(name: str) -> None:
    outcomes = []
    for more in ({"engine": "portable", "microbatch": 1}, {"tokens": 20}):
        model = ARCHITECTURES[name]()
        learner = make(model, "pcr", **more)
        drift(model)
        _, rows = learner.update(batch(), step=1)
        outcomes.append((gradients(model), rows))
    (plain, before), (other, after) = outcomes
    assert plain.keys() == other.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(other[key], gradient, rtol=1e-9, atol=1e-13)
    for row, again in zip(before, after, strict=True):
        assert again["var_pla"] == pytest.approx(row["var_pla"], rel=1e-9)


@pytest.mark.usefixtures("float64_throughout")
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_inner_updates_do_not_depend_on_engine_or_budget(options: dict[str, object]) -> None:
    """Clipped ratios, so that some responses, then whole microbatches, say nothing to g_pla."""
    weights = []
    for more in ({"engine": "portable", "microbatch": 1}, options):
        torch.manual_seed(0)
        model = llama()
        learner = make(model, "pcr", epochs=3, lr=0.02, clip_low=1e-3, clip_high=1e-3, **more)
        learner.update(batch(), step=1)
        weights.append(copy.deepcopy(model.state_dict()))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-7, atol=1e-9)
