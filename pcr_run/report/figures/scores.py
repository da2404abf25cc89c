"""Figures of what runs end with: arms as points, runs as small points around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from pcr_run.report import harness, measures
from pcr_run.report.arms import arms, legend, shown
from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Figure
from pcr_run.report.figures.style import MissingError, below, look, panels, point, say
from pcr_run.report.statistics import mean_interval

Point = tuple[float, float]


def time(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """The last score against the training time."""
    return _scatter(figure, cells, "minutes", (figure.y or ("trained",))[0])


def pareto(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """One measure against another; with ``along`` an arm is a line through the values of that key."""
    return _scatter(figure, cells, figure.x or "perplexity", (figure.y or ("trained",))[0])


def sensitivity(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """Measures against a key of the configuration, whose values stand evenly spaced in their order."""
    key, names = str(figure.x), figure.y or ("trained",)
    complete = [cell for cell in cells if cell.complete]
    values = sorted({shown(cell.value(key)) for cell in complete} - {""}, key=_order)
    if not values:
        raise MissingError(f"no complete run has {key}")
    drawing, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        groups = list(arms(complete, figure.by).items())
        drawn = False
        for i, (who, group) in enumerate(groups):
            shift = 0.06 * (i - (len(groups) - 1) / 2)  # so that intervals do not hide each other
            found = [
                (k, [measures.final(c, name) for c in group if shown(c.value(key)) == v]) for k, v in enumerate(values)
            ]
            points = [(k, [y for y in ys if math.isfinite(y)]) for k, ys in found]
            points = [(k, ys) for k, ys in points if ys]
            if points:
                drawn = True
                means = [mean_interval(ys) for _, ys in points]
                x = [k + shift for k, _ in points]
                bars = [half or 0.0 for _, half in means]
                label = f"{legend(who, figure.by)} ({_n([len(ys) for _, ys in points])})"
                axis.errorbar(x, [m for m, _ in means], bars, label=label, capsize=2, **{**look(i), **point(i)})
        axis.set_xticks(range(len(values)), values)
        axis.set_xlabel(key)
        axis.set_ylabel(measures.label(name, list(cells)))
        if not drawn:
            say(axis, f"no complete run has {name}")
    below(drawing, axes)
    return drawing


def forgetting(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """KL, change of perplexity, of every task that an arm did not train, and of lm-eval's; an arm a line."""
    complete = [cell for cell in cells if cell.complete]
    if not complete:
        raise MissingError("no run is complete")
    tasks = dict.fromkeys(task for cell in complete for task in cell.scores)
    names = ["kl", "perplexity", *(t for t in tasks if any(t in cell.not_trained for cell in complete))]
    names += harness.names(complete)
    groups = list(arms(complete, figure.by).items())
    drawing, axes = panels(len(names), height=1.3 + 0.26 * len(groups))
    for axis, name in zip(axes, names, strict=True):
        lows = []
        for i, (_, group) in enumerate(groups):
            changes = [_change(cell, name) for cell in group if name not in cell.scores or name in cell.not_trained]
            found = [change for change in changes if math.isfinite(change)]
            if found:
                mean, half = mean_interval(found)
                axis.errorbar(mean, -i, xerr=half or 0.0, capsize=2, linestyle="none", **point(i))
                axis.plot(found, [-i] * len(found), "|", color=point(i)["color"], alpha=0.6)
                lows.append(min(found))
        place = axis.get_subplotspec()
        first = place is None or place.is_first_col()
        labels = [f"{legend(who, figure.by)} (n={len(group)})" if first else "" for who, group in groups]
        axis.locator_params(axis="x", nbins=5)
        axis.set_yticks([-i for i in range(len(groups))], labels)
        axis.set_ylim(-len(groups) + 0.5, 0.5)
        axis.axvline(0, color="black", linewidth=0.8)
        units = {"kl": measures.LABELS["kl"], "perplexity": "change of perplexity"}
        units |= {extra: f"change of {harness.label(extra)}" for extra in harness.names(complete)}
        axis.set_xlabel(units.get(name, f"change of Pass@1 on {name}\nwhere it is not trained (points)"))
        if not lows:
            axis.text(0.5, 0.5, f"no complete run has {name}", ha="center", va="center", transform=axis.transAxes)
    return drawing


def _change(cell: Cell, name: str) -> float:
    return measures.final(cell, name) - measures.final(cell, name, "before")


def _scatter(figure: Figure, cells: Sequence[Cell], x: str, y: str) -> Drawing:
    """Arms as points with intervals in both directions, runs as small points; the base model as a cross."""
    complete = [cell for cell in cells if cell.complete]
    drawing, (axis,) = panels(1, width=6.0, height=4.2)
    frame: list[Point] = []
    for i, (who, group) in enumerate(arms(complete, figure.by).items()):
        along = [figure.along] if figure.along else []
        inner = sorted(arms(group, along).items(), key=lambda pair: [_order(value) for value in pair[0]])
        points = [([_point(cell, x, y) for cell in own], values) for values, own in inner]
        known = [([p for p in ps if all(map(math.isfinite, p))], values) for ps, values in points]
        known = [(ps, values) for ps, values in known if ps]
        if known:
            label = f"{legend(who, figure.by)} ({_n([len(ps) for ps, _ in known])})"
            frame += _arm(axis, [ps for ps, _ in known], i, label)
            for ps, values in known if along else ():
                axis.annotate(
                    values[0], tuple(np.mean(ps, axis=0)), xytext=(4, 4), textcoords="offset points", fontsize=7
                )
    if not frame:
        raise MissingError(f"no complete run has both {x} and {y}")
    base = [_point(cell, x, y, "before") for cell in complete]
    base = [p for p in base if all(map(math.isfinite, p))]
    if base and x != "minutes":
        frame.append((float(np.mean([p[0] for p in base])), float(np.mean([p[1] for p in base]))))
        axis.plot(*frame[-1], "x", color="black", markersize=8, label="before training")
    for limit, span in ((axis.set_xlim, [p[0] for p in frame]), (axis.set_ylim, [p[1] for p in frame])):
        margin = 0.08 * (max(span) - min(span)) or 0.05 * abs(span[0]) or 1.0
        limit(min(span) - margin, max(span) + margin)
    numbers = f"\n(numbers at points: {figure.along})" if figure.along else ""
    axis.set_xlabel(measures.label(x, list(cells)) + numbers)
    axis.set_ylabel(measures.label(y, list(cells)))
    below(drawing, [axis])
    return drawing


def _arm(axis: Axes, points: Sequence[Sequence[Point]], i: int, label: str) -> list[Point]:
    """The means of several sets of runs as one line with intervals; returns what has to be in sight.

    That is all runs and the intervals of three runs or more: one of two would leave no room for the rest.
    """
    estimates = [[mean_interval([p[k] for p in ps]) for ps in points] for k in (0, 1)]
    (xs, ys) = ([value for value, _ in each] for each in estimates)
    (wide, high) = ([half or 0.0 for _, half in each] for each in estimates)
    style = {**look(i), **point(i)} if len(points) > 1 else {**point(i), "linestyle": "none"}
    axis.errorbar(xs, ys, high, wide, label=label, capsize=2, elinewidth=0.8, **style)
    flat = [p for ps in points for p in ps]
    if len(flat) > len(points):
        axis.scatter([x for x, _ in flat], [y for _, y in flat], s=9, alpha=0.45, linewidths=0, **point(i))
    sides = [(xs[k] + d * wide[k], ys[k] + d * high[k]) for k in range(len(points)) for d in (-1, 1)]
    return flat + [side for k, side in enumerate(sides) if len(points[k // 2]) > 2]


def _point(cell: Cell, x: str, y: str, when: str = "after") -> Point:
    return measures.final(cell, x, when), measures.final(cell, y, when)


def _n(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"n={low}" if low == high else f"n={low} to {high}"


def _order(value: str) -> tuple[float, str]:
    """Numbers by their size, before texts."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value
