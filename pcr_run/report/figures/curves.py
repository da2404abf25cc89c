"""Figures over training: a line an arm, a band over its runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from scipy.special import stdtrit

from pcr_run.report import measures
from pcr_run.report.arms import arms, legend
from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Figure
from pcr_run.report.figures.style import MissingError, below, look, panels, point, say
from pcr_run.report.measures import Values

WINDOW = 20
"""What is measured at every step is shown as a moving mean over a 20th of the steps."""


def curves(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """Measures against steps or minutes; a panel each."""
    names = figure.y or ("reward", "trained")
    drawing, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        if not _lines(axis, figure, cells, name):
            say(axis, f"no run has recorded {name}")
    return _finished(drawing, axes)


def grad_norm(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """Gradient norm, unsmoothed; the legend gives its coefficient of variation over the steps, mean over runs."""

    def roughness(group: Sequence[Cell]) -> str:
        values = [measures.column(cell, "grad_norm") for cell in group]
        found = [np.nanstd(v) / np.nanmean(v) for v in values if np.isfinite(v).any() and np.nanmean(v) > 0]
        return f"sd/mean {np.mean(found):.2f}" if found else ""

    return _one(figure, cells, "grad_norm", roughness)


def cosine(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """cos(update, g_sta); the legend gives the share of steps at which it is not negative."""

    def share(group: Sequence[Cell]) -> str:
        values = np.concatenate([measures.column(cell, "cos_update_sta") for cell in group])
        finite = values[np.isfinite(values)]
        return f"{np.mean(finite >= 0):.0%} of steps ≥ 0" if len(finite) else ""

    drawing = _one(figure, cells, "cos_update_sta", share)
    drawing.axes[0].axhline(0, color="black", linewidth=0.8)
    return drawing


def _one(figure: Figure, cells: Sequence[Cell], name: str, note: Callable[[Sequence[Cell]], str]) -> Drawing:
    drawing, axes = panels(1, width=6.5, height=3.6)
    if not _lines(axes[0], figure, cells, name, note, smooth=False):
        raise MissingError(f"no run has recorded {name}")
    return _finished(drawing, axes)


def _finished(drawing: Drawing, axes: Sequence[Axes]) -> Drawing:
    below(drawing, axes)
    return drawing


def _lines(
    axis: Axes,
    figure: Figure,
    cells: Sequence[Cell],
    name: str,
    note: Callable[[Sequence[Cell]], str] = lambda _: "",
    smooth: bool = True,
) -> bool:
    """A line for each arm that has the measure; whether there was one."""
    window, sight = 1, list[float]()
    groups = arms(cells, figure.by)
    shade = min(0.15, 0.45 / len(groups))  # of many bands that lie on each other each still shows
    for i, (values, group) in enumerate(groups.items()):
        series = [(*measures.series(cell, name), cell) for cell in group]
        finite = [(x[np.isfinite(x + y)], y[np.isfinite(x + y)], cell) for x, y, cell in series]
        runs = [(x, y, cell) for x, y, cell in finite if len(y)]
        if not runs:
            continue
        sparse = all(2 * len(y) < len(cell.metrics) for _, y, cell in runs)  # of evaluations, or of every k-th step
        own = 1 if sparse or not smooth else max(1, max(len(y) for _, y, _ in runs) // WINDOW)
        window = max(window, own)
        steps, mean, half = _mean([(x, _moving(y, own)) for x, y, _ in runs])
        x = _minutes(steps, [cell for _, _, cell in runs]) if figure.x == "minutes" else steps
        extra = note(group)
        label = f"{legend(values, figure.by)} (n={len(runs)}{', ' + extra if extra else ''})"
        dots = {**point(i), "markevery": None} if sparse or len(x) == 1 else {}
        axis.plot(x, mean, label=label, **{**look(i), **dots})
        smoothed = [(own_x, _moving(y, own)) for own_x, y, _ in runs]
        sight += [*np.concatenate([y for _, y in smoothed])]
        if len(runs) > 2:
            axis.fill_between(x, mean - half, mean + half, color=look(i)["color"], alpha=shade, linewidth=0)
            sight += [*(mean - half), *(mean + half)]
        elif len(runs) == 2:  # a 95% interval of two runs would fill the panel
            for own_x, y in smoothed:
                axis.plot(np.interp(own_x, steps, x), y, color=look(i)["color"], alpha=0.35, linewidth=0.7)
    axis.set_xlabel("training time (min)" if figure.x == "minutes" else "step")
    label = measures.label(name, list(cells))
    axis.set_ylabel(label if window == 1 else f"{label}\nmoving mean of {window} steps")
    found = [value for value in sight if np.isfinite(value)]
    if found:
        margin = 0.05 * (max(found) - min(found)) or 0.05 * abs(found[0]) or 0.5
        least, most = measures.BOUNDS.get(name, (-np.inf, np.inf))
        axis.set_ylim(max(min(found) - margin, least - margin / 4), min(max(found) + margin, most + margin / 4))
    return bool(found)


def _mean(runs: Sequence[tuple[Values, Values]]) -> tuple[Values, Values, Values]:
    """(steps, mean, half-width of the 95% t-interval) over the runs that have a step; nan for one run."""
    steps = np.unique(np.concatenate([x for x, _ in runs]))
    table = np.full((len(runs), len(steps)), np.nan)
    for row, (x, y) in zip(table, runs, strict=True):
        row[np.searchsorted(steps, x)] = y
    count = np.isfinite(table).sum(axis=0)
    with warnings.catch_warnings():  # of steps that no run has
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, spread = np.nanmean(table, axis=0), np.nanstd(table, axis=0, ddof=1)
    half = stdtrit(np.maximum(count - 1, 1), 0.975) * spread / np.sqrt(np.maximum(count, 1))
    return steps, mean, np.where(count > 1, half, np.nan)


def _moving(values: Values, window: int) -> Values:
    """Centred moving mean; at the ends over as much as there is."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _minutes(steps: Values, cells: Sequence[Cell]) -> Values:
    """Mean training time of the cells at each step; 0 before the first."""
    times = []
    for cell in cells:
        known = np.concatenate([[0.0], measures.column(cell, "step")])
        times.append(np.interp(steps, known, np.concatenate([[0.0], measures.minutes(cell)])))
    return np.mean(times, axis=0)
