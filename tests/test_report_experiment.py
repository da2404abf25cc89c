"""What an experiment's file may say, which runs it takes, and what becomes of a wrong one."""

from __future__ import annotations

import json

import pytest
from fake_sweep import cell, declare, measured, training

from pcr_run.errors import ConfigError
from pcr_run.report import build, experiment
from pcr_run.report.experiment import Figure, Table
from pcr_run.report.tables import tables

RIGHT = {
    "title": "Fig. 4a",
    "source": "Fig. 4a",
    "order": 3,
    "tables": [
        {"rows": ["resolver.name"], "benchmarks": None, "against": {"resolver.name": "none"}, "printed": "table1"}
    ],
    "figures": [
        {"kind": "curves", "by": ["resolver.name"], "y": ["reward", "math"]},
        {"kind": "pareto", "x": "kl", "y": "mean", "along": "learner.beta", "where": {"learner.lr": [1e-3, 2e-3]}},
        {"kind": "sensitivity", "x": "learner.beta"},
    ],
}


def test_a_file_becomes_what_it_says(tmp_path):
    given = experiment.read(declare(tmp_path, "fig4a", ["a"], **RIGHT))
    made = experiment.experiment(given, [], ["a"])
    assert made.tables == (Table("Pass@1", ("resolver.name",), None, {"resolver.name": "none"}, "table1"),)
    assert made.figures[0] == Figure("curves", y=("reward", "math"))
    assert made.figures[1].y == ("mean",)
    assert (made.order, made.given["name"]) == (3, "fig4a")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tabels": []}, "tabels: no such field here; right is one of name"),
        ({"title": 3}, "title: is 3; right is a text"),
        ({"order": True}, "order: is True; right is a whole number"),
        ({"cells": "a"}, "cells: is 'a'; right is a list of texts"),
        ({"cells": None}, "cells: is missing"),
        ({"name": "../up"}, "name: is '../up'; right are letters"),
        ({"tables": [{}]}, r"tables\[0\]: rows: is missing"),
        ({"tables": ["x"]}, r"tables\[0\]: is not a mapping"),
        (
            {"tables": [{"rows": ["a"], "printed": "table2"}]},
            r"tables\[0\].printed: is 'table2'; right is table1 or null",
        ),
        ({"tables": [{"rows": ["a"], "against": {"b": 1}}]}, "b does not stand in rows"),
        ({"figures": [{"kind": "pie"}]}, "kind: is 'pie'; right is one of curves, time, pareto"),
        ({"figures": [{"by": ["a"]}]}, r"figures\[0\]: kind: is missing"),
        ({"figures": [{"kind": "heatmap", "x": "step"}]}, "x: no such field here; right is one of kind, title"),
        ({"figures": [{"kind": "pareto", "y": ["a", "b"]}]}, "y: pareto shows one measure, not a list"),
        ({"figures": [{"kind": "sensitivity"}]}, "x: is missing"),
        ({"figures": [{"kind": "curves", "x": "kl"}]}, "x: is 'kl'; right is step or minutes"),
        ({"figures": [{"kind": "curves", "by": [1]}]}, r"by: is \[1\]; right is a list of texts"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(tmp_path, change, says):
    file = declare(tmp_path, "e", ["a"])
    file.write_text(json.dumps({"name": "e", "cells": ["a"], **change}))
    with pytest.raises(ConfigError, match=says) as raised:
        experiment.read(file)
    assert str(file) in str(raised.value)


def test_a_file_that_is_no_json_is_named(tmp_path):
    file = declare(tmp_path, "e", [])
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"e\.json: not readable as JSON"):
        experiment.read(file)


def test_sections_are_in_order_and_runs_that_none_names_come_last(tmp_path):
    a, b = cell(tmp_path, "pcr", 0, [0.1], [0.2]), cell(tmp_path, "none", 0, [0.1], [0.2])
    cell(tmp_path, "pcgrad", 0, [0.1], [0.2])
    declare(tmp_path, "late", [a], order=2)
    declare(tmp_path, "early", [b, a, "not-yet"], order=1)
    found, repeated = build.collect([tmp_path])
    assert [each.name for each in found] == ["early", "late", "other"]
    assert [c.directory.name for c in found[0].cells] == [b.name, a.name]
    assert found[0].missing == ("not-yet",)
    assert [c.value("resolver.name") for c in found[2].cells] == ["pcgrad"]
    assert repeated == []


def test_runs_may_lie_elsewhere_and_before_the_first_there_may_be_none(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    file = declare(sweep, "e", [])
    file.write_text('{"name": "e", "cells": ["../shared/run"]}')
    found, _ = build.collect([sweep])
    assert (found[0].cells, found[0].missing) == ((), ("../shared/run",))
    cell(tmp_path / "shared", "pcr", 0, [0.1], [0.2]).rename(tmp_path / "shared" / "run")
    found, _ = build.collect([sweep])
    assert [c.directory.name for c in found[0].cells] == ["run"]


def test_several_directories_are_put_together_and_repeated_runs_left_out(tmp_path):
    for sweep in ("a", "b"):
        cell(tmp_path / sweep, "pcr", 0, [0.1], [0.2], status="complete" if sweep == "b" else "failed")
    cell(tmp_path / "b", "none", 0, [0.1], [0.2])
    found, repeated = build.collect([tmp_path / "a", tmp_path / "b"])
    assert {str(c.directory.parent.name) for c in found[0].cells} == {"b"}
    assert [c.directory.parent.name for c in repeated] == ["a"]


def test_by_default_a_report_shows_what_there_is_data_for(tmp_path):
    for beta in (0.0, 0.1):
        cell(tmp_path, "pcr", 0, [0.1], [0.2], beta=beta, metrics=training(), layers=measured())
        cell(tmp_path, "none", 0, [0.1], [0.2], beta=beta, metrics=training())
    found, _ = build.collect([tmp_path])
    kinds = [figure.kind for figure in found[0].figures]
    assert kinds[:3] == ["curves", "forgetting", "pareto"]
    assert {"sensitivity", "grad_norm", "cosine", "heatmap", "alpha_density", "time"} <= set(kinds)
    assert found[0].figures[2] == Figure("pareto", by=("resolver.name",), x="perplexity", along="learner.beta")
    assert found[0].tables[0].against == {"resolver.name": "none"}
    (one,), _ = build.collect([tmp_path / "math-none-0-0.1"])
    assert [figure.kind for figure in one.figures] == ["curves", "forgetting", "grad_norm", "cosine"]


def test_too_many_lines_become_one_value_of_each_number(tmp_path):
    for beta in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        for rule in ("pcr", "none"):
            cell(tmp_path, rule, 0, [0.1], [0.2], beta=beta)
    cell(tmp_path, "pcr", 1, [0.1], [0.2], beta=0.3)
    (found,), _ = build.collect([tmp_path])
    curves = next(figure for figure in found.figures if figure.kind == "curves")
    assert (curves.by, curves.where) == (("resolver.name",), {"learner.beta": 0.3})


def test_option_is_what_a_run_changes(tmp_path):
    runs = [
        cell(tmp_path, "none", 0, [0.1], [0.5]),
        cell(tmp_path, "none", 1, [0.1], [0.6]),
        cell(tmp_path, "pcr", 0, [0.1], [0.7]),
        cell(tmp_path, "none", 0, [0.1], [0.8], beta=0.0, lr=2e-3),
        cell(tmp_path, "none", 1, [0.1], [0.9], beta=0.0, lr=2e-3),
    ]
    declare(tmp_path, "mine", runs, tables=[{"rows": ["option"], "against": {"option": "baseline"}}])
    (found,), _ = build.collect([tmp_path])
    changed = "learner.beta=0 learner.lr=0.002"
    assert [each.option for each in found.cells] == ["baseline", "baseline", "resolver=pcr", changed, changed]
    scores, details = tables(found, found.tables[0], "mine")
    assert [(row["option"], row["n"]) for row in scores.rows] == [
        ("before training", 2),
        ("baseline", 2),
        ("resolver=pcr", 1),
        (changed, 2),
    ]
    (row,) = [row for row in details.rows if (row["option"], row["benchmark"]) == (changed, "math")]
    assert (row["against"], row["difference"].value) == ("baseline", pytest.approx(30))
    only = {"option": ["baseline", "resolver=pcr"]}
    assert sum(each.matches(only) for each in found.cells) == 3
