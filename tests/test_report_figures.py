"""Figures: what they show, what they say where data is missing, and that the same data gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from fake_sweep import cell, measured, training
from matplotlib import rc_context
from scipy import stats

from pcr_run.report import figures
from pcr_run.report.cells import load
from pcr_run.report.experiment import FIELDS, Figure
from pcr_run.report.figures import draw, style
from pcr_run.report.figures.layers import _density
from pcr_run.report.measures import final, minutes, series

EVALUATIONS = [
    {"step": step, "tasks": {"math": {"pass@1": 0.1 + 0.05 * step}, "other": {"pass@1": 0.5}}, "perplexity": 2.0}
    for step in (0, 3, 6)
]


@pytest.fixture
def sweep(tmp_path):
    for seed in range(3):
        for rule, rise in (("none", 0.05), ("pcr", 0.1 + 0.01 * seed)):
            records = {"metrics": training(rise=rise), "layers": measured(), "evaluations": EVALUATIONS}
            cell(tmp_path, rule, seed, [0.1, 0.3], [0.4 + 0.1 * seed, 0.5], **records)
    return tmp_path


def texts(drawing) -> str:
    """All that can be read on a figure."""
    found = [
        t.get_text() for axis in drawing.axes for t in (*axis.texts, axis.title, axis.xaxis.label, axis.yaxis.label)
    ]
    found += [tick for axis in drawing.axes for tick in (t.get_text() for t in axis.get_yticklabels())]
    found += [t.get_text() for legend in drawing.legends for t in legend.get_texts()]
    return "\n".join(found)


def test_every_kind_that_may_be_declared_is_drawn_and_has_a_caption():
    assert set(FIELDS) == set(figures.KINDS) == set(figures.CAPTIONS)


def needed(kind: str) -> Figure:
    return Figure(kind, x="learner.beta") if kind == "sensitivity" else Figure(kind)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_figure_has_units_and_n(sweep, kind):
    drawing = draw(needed(kind), load(sweep))
    said = texts(drawing)
    assert "n=3" in said
    for axis in drawing.axes:
        if axis.lines or axis.collections:
            assert axis.get_xlabel() or axis.get_ylabel()


def test_curves_are_means_with_students_band(sweep):
    drawing = draw(Figure("curves"), load(sweep))
    reward, score = drawing.axes
    line = next(line for line in reward.lines if line.get_label().startswith("pcr"))
    values = np.array([[row["reward"] for row in training(rise=0.1 + 0.01 * seed)] for seed in range(3)])
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(line.get_ydata()) == pytest.approx(list(values.mean(axis=0)))
    band = reward.collections[1].get_paths()[0].vertices
    half = stats.t.ppf(0.975, 2) * stats.sem(values[:, -1])
    at_end = sorted({round(y, 6) for x, y in band if x == 6})
    assert at_end == pytest.approx([values[:, -1].mean() - half, values[:, -1].mean() + half], abs=1e-5)
    assert list(score.lines[0].get_xdata()) == [0, 3, 6]
    assert list(score.lines[0].get_ydata()) == pytest.approx([10, 25, 40])


def test_runs_of_different_lengths_are_averaged_where_they_are(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=training(120))
    cell(tmp_path, "pcr", 1, [0.1], [0.2], status="interrupted", metrics=training(3))
    line = draw(Figure("curves", y=("reward",)), load(tmp_path)).axes[0].lines[0]
    assert len(line.get_xdata()) == 120
    assert "n=2" in line.get_label()
    middle = list(line.get_ydata())[60]
    assert middle == pytest.approx(np.mean([0.2 + 0.1 * step for step in range(58, 64)]))


def test_what_is_measured_at_every_fifth_step_is_a_line_through_those(tmp_path):
    metrics = [line if line["step"] % 5 == 0 else {**line, "cos_update_sta": None} for line in training(20)]
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=metrics)
    line = draw(Figure("cosine"), load(tmp_path)).axes[0].lines[0]
    assert list(line.get_xdata()) == [5, 10, 15, 20]
    assert np.isfinite(line.get_ydata()).all()
    assert line.get_marker() == "o"


def test_time_is_that_of_training(sweep):
    (one, *_) = load(sweep)
    assert list(minutes(one)) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    drawing = draw(Figure("curves", x="minutes", y=("trained",)), load(sweep))
    assert list(drawing.axes[0].lines[0].get_xdata()) == pytest.approx([0, 1.5, 3.0])


def test_measures_at_the_end_are_of_the_last_tenth_of_the_steps(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=[{"step": s, "kl": s / 100} for s in range(1, 41)])
    (one,) = load(tmp_path)
    assert final(one, "kl") == pytest.approx(0.385)
    assert (final(one, "trained"), final(one, "others"), final(one, "mean")) == pytest.approx((20, 40, 30))
    assert (final(one, "perplexity", "before"), final(one, "kl", "before")) == (2.0, 0.0)
    assert np.isnan(final(one, "no_such_column"))
    assert len(series(one, "kl")[1]) == 40


def test_a_heatmap_is_layer_by_step_and_centred_on_zero(sweep):
    drawing = draw(Figure("heatmap"), load(sweep))
    mesh = drawing.axes[0].collections[0]
    assert mesh.get_array().shape == (3, 5)  # the first step has no axis
    assert np.asarray(mesh.get_array())[:, 0] == pytest.approx([0, -0.1, -0.2])
    assert mesh.norm.vmin == -mesh.norm.vmax
    assert "none: mlp (n=3)" in texts(drawing)
    assert "none: attention (n=3)" in texts(drawing)


def test_the_density_is_one_of_a_share():
    grid = np.linspace(0, 1, 2001)
    for alphas in (np.full(50, 0.3), np.array([0.0] * 5 + [1.0] * 5), np.random.default_rng(0).beta(2, 5, 3000)):
        assert np.trapezoid(_density(alphas, grid), grid) == pytest.approx(1, abs=0.01)
    alphas = np.random.default_rng(1).beta(4, 4, 20_000)
    assert _density(alphas, grid)[200:1800] == pytest.approx(stats.beta(4, 4).pdf(grid)[200:1800], abs=0.12)


def test_cosines_are_counted_and_norms_have_their_spread(sweep):
    assert "(n=3, 67% of steps ≥ 0)" in texts(draw(Figure("cosine"), load(sweep)))
    assert "sd/mean 0.33" in texts(draw(Figure("grad_norm"), load(sweep)))


def test_pareto_joins_the_values_of_a_key_in_their_order(tmp_path):
    for beta, after in ((0.1, 0.6), (0.01, 0.4), (1.0, 0.2)):
        cell(tmp_path, "pcr", 0, [0.1], [after], beta=beta, metrics=training())
    drawing = draw(Figure("pareto", along="learner.beta", y=("math",)), load(tmp_path))
    line = next(line for line in drawing.axes[0].lines if len(line.get_xdata()) == 3)
    assert list(line.get_ydata()) == pytest.approx([40, 60, 20])
    assert texts(drawing).splitlines()[:3] == ["0.01", "0.1", "1"]


def test_sensitivity_has_its_values_in_order(tmp_path):
    for beta in (1.0, 0.0, 0.04):
        cell(tmp_path, "pcr", 0, [0.1], [0.2 + beta / 2], beta=beta)
    drawing = draw(Figure("sensitivity", x="learner.beta"), load(tmp_path))
    (axis,) = drawing.axes
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "0.04", "1"]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([20, 22, 70])


def test_forgetting_shows_only_tasks_that_an_arm_did_not_train(tmp_path):
    cell(tmp_path, "pcr", 0, [0.1], [0.2], task="math", scores={"code": ([0.5], [0.3])})
    cell(tmp_path, "pcr", 0, [0.1], [0.2], task="code", scores={"math": ([0.5], [0.6])})
    drawing = draw(Figure("forgetting", by=("task.name",)), load(tmp_path))
    said = texts(drawing)
    assert "change of Pass@1 on code\nwhere it is not trained (points)" in said
    points = {axis.get_xlabel().split("\n")[0]: [line.get_xdata() for line in axis.lines] for axis in drawing.axes}
    assert next(list(x) for x in points["change of Pass@1 on math"] if len(x) == 1) == pytest.approx([10])


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("state", ["nothing", "damaged", "nulls", "one step", "interrupted", "no layers", "where"])
def test_whatever_is_missing_is_said_and_nothing_breaks(tmp_path, kind, state):
    nulls = [{"step": s, "reward": None, "kl": None, "grad_norm": None, "cos_update_sta": None} for s in (1, 2)]
    metrics = {"nulls": nulls, "one step": training(1), "nothing": ()}.get(state, training())
    layers = measured() if state != "no layers" else ()
    status = "interrupted" if state == "interrupted" else "complete"
    directory = cell(tmp_path, "pcr", 0, [0.1], [0.2], status=status, metrics=metrics, layers=layers)
    if state == "nothing":
        (directory / "result.json").write_text(json.dumps({"status": "complete"}))
        (directory / "layers.jsonl").unlink()
    if state == "damaged":
        (directory / "result.json").write_bytes(b"\xff{")
        (directory / "metrics.jsonl").write_bytes(b'{"step": 1, "reward": "much"}\n\xff\n')
        (directory / "layers.jsonl").write_text('{"step": 1}\n[1]\n')
    figure = needed(kind)
    if state == "where":
        figure = Figure(kind, x=figure.x, where={"resolver.name": "pcgrad"})
    drawing = draw(figure, load(tmp_path))
    with rc_context(style.RC):
        drawing.savefig(tmp_path / "figure.png")
    if state in ("nothing", "where"):
        assert "no run" in texts(drawing) or "no complete run" in texts(drawing)


def test_intervals_do_not_stretch_axes_beyond_what_a_measure_can_be(tmp_path):
    for seed, value in ((0, -0.99), (1, 0.99), (2, 0.99)):
        metrics = [{"step": step, "grad_norm": value + 1, "cos_update_sta": value} for step in (1, 2)]
        cell(tmp_path, "pcr", seed, [0.1], [0.2], metrics=metrics)
    low, high = draw(Figure("cosine"), load(tmp_path)).axes[0].get_ylim()
    assert -1.3 < low < -1 < 1 < high < 1.3
    assert draw(Figure("grad_norm"), load(tmp_path)).axes[0].get_ylim()[0] > -0.3


def test_cells_of_a_heatmap_are_as_wide_at_its_ends(tmp_path):
    layers = [{"step": step, "layer": 0, "module": "mlp", "cos_pla_sta": 0.5} for step in (5, 10, 15)]
    cell(tmp_path, "pcr", 0, [0.1], [0.2], layers=layers)
    assert draw(Figure("heatmap"), load(tmp_path)).axes[0].get_xlim() == (2.5, 17.5)


def test_numbers_at_points_are_named(sweep):
    assert "(numbers at points: learner.beta)" in texts(draw(Figure("pareto", along="learner.beta"), load(sweep)))


def test_labels_of_rows_stand_left_of_the_first_panels(tmp_path):
    more = {name: ([0.5], [0.3]) for name in ("code", "poems")}
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=training(), scores=more)
    labelled = [axis.get_yticklabels()[0].get_text() for axis in draw(Figure("forgetting"), load(tmp_path)).axes]
    assert labelled == ["pcr (n=1)", "", "pcr (n=1)", ""]


def test_names_with_formulas_are_texts(tmp_path):
    cell(tmp_path, "$\\frac{<b>", 0, [0.1], [0.2], metrics=training())
    drawing = draw(Figure("curves", title="$x_"), load(tmp_path))
    assert b"&lt;b" in style.rendered(drawing)["svg"]


def test_lines_differ_in_more_than_colour():
    looks = [style.look(i) for i in range(28)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 28
    assert all(a["linestyle"] != b["linestyle"] for a, b in pairwise(looks))
    assert len({style.point(i)["marker"] for i in range(8)}) == 8


def test_the_same_data_gives_the_same_bytes_in_another_process(sweep):
    code = (
        "import hashlib, sys, pathlib; from pcr_run.report.cells import load; from pcr_run.report.figures import draw\n"
        "from pcr_run.report.figures.style import rendered; from pcr_run.report.experiment import Figure\n"
        "for kind in ('pareto', 'heatmap'):\n"
        "    made = rendered(draw(Figure(kind), load(pathlib.Path(sys.argv[1]))))\n"
        "    print({form: hashlib.sha256(content).hexdigest() for form, content in made.items()})\n"
    )
    other = subprocess.run([sys.executable, "-c", code, sweep], capture_output=True, text=True).stdout.splitlines()
    for kind, line in zip(("pareto", "heatmap"), other, strict=True):
        made = style.rendered(draw(Figure(kind), load(sweep)))
        assert line == str({form: hashlib.sha256(content).hexdigest() for form, content in made.items()})
