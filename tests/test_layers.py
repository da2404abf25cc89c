"""Rows of layers.jsonl and the metrics that are made of them."""

from __future__ import annotations

import pytest
import torch
from test_learner import batch, drift, llama, make

from pcr_run.learner import learner as module
from pcr_run.learner.layers import layer_rows, summary


@pytest.mark.parametrize(
    ("resolver", "measure", "times"), [("pcr", None, 1), ("pcr", "mlp", 1), ("none", "all", 1), ("pcr", "all", 2)]
)
def test_rows_are_made_once_where_what_acts_is_what_is_measured(monkeypatch, resolver, measure, times) -> None:
    calls = []
    monkeypatch.setattr(module, "layer_rows", lambda *arguments: calls.append(1) or layer_rows(*arguments))
    torch.manual_seed(0)
    model = llama()
    learner = make(model, resolver, measure)
    drift(model)
    metrics, rows = learner.update(batch(), step=1)
    assert len(calls) == times
    if times == 1:
        assert {key: metrics[key] for key in summary(rows)} == summary(rows)
    else:
        assert {row["module"] for row in rows} > {"mlp"}


def test_a_metric_that_no_group_has_is_left_out() -> None:
    row = {"ps": 1.0, "alpha": 0.5, "cos_pla_sta": 0.25, "cos_update_sta": None, "cos_step_sta": None}
    assert summary([row]) == {"conflict_rate": 0.0, "alpha": 0.5, "cos_pla_sta": 0.25}
