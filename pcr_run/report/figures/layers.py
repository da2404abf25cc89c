"""Figures of ``layers.jsonl``: what each parameter group of a run measured at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing

from pcr_run.report.arms import arms, legend
from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Figure
from pcr_run.report.figures.style import MissingError, below, look, panels
from pcr_run.report.measures import LABELS, Values, number

PANELS = 12
"""Most panels of a figure; more arms than that have to be chosen by ``where``."""


def heatmap(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """A column of the records, layer by step, mean over runs and inner updates; zero is white, what is missing grey."""
    name = (figure.y or ("cos_pla_sta",))[0]
    found = []
    for who, group in arms(cells, figure.by).items():
        for module, (table, runs) in _tables(group, name).items():
            found.append((f"{legend(who, figure.by)}: {module} (n={runs})", *table))
    if not found:
        raise MissingError(f"no run has {name} in layers.jsonl")
    drawing, axes = panels(min(len(found), PANELS), height=2.4)
    limit = max(float(np.nanmax(np.abs(table))) for _, _, _, table in found[:PANELS]) or 1.0
    for axis, (title, layers, steps, values) in zip(axes, found, strict=False):
        gaps = np.diff(steps) if len(steps) > 1 else np.ones(1)
        between = (steps[1:] + steps[:-1]) / 2
        edges = np.concatenate([[steps[0] - gaps[0] / 2], between, [steps[-1] + gaps[-1] / 2]])
        axis.set_facecolor("#bbbbbb")
        rows = np.arange(len(layers) + 1) - 0.5
        mesh = axis.pcolormesh(edges, rows, values, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True)
        every = max(1, len(layers) // 8)
        axis.set_yticks(range(0, len(layers), every), [f"{layer:g}" for layer in layers[::every]])
        axis.grid(visible=False)
        axis.set(title=title, xlabel="step", ylabel="layer")
    drawing.colorbar(mesh, ax=axes, label=LABELS.get(name, name), shrink=0.9)
    if len(found) > PANELS:
        drawing.supxlabel(f"{len(found) - PANELS} more are not shown", fontsize=8)
    return drawing


def alpha_density(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """Density of alpha over (step, layer, run) by module; a panel an arm. Kernel estimate, cut at 0 and 1."""
    found = []
    for values, group in arms(cells, figure.by).items():
        modules: dict[str, list[float]] = {}
        runs = 0
        for cell in group:
            rows = [(str(row.get("module")), number(row.get("alpha"))) for row in cell.layers]
            rows = [(module, alpha) for module, alpha in rows if np.isfinite(alpha)]
            runs += bool(rows)
            for module, alpha in rows:
                modules.setdefault(module, []).append(alpha)
        if modules:
            found.append((f"{legend(values, figure.by)} (n={runs})", modules))
    if not found:
        raise MissingError("no run has alpha in layers.jsonl (resolver=none measures it with measure=all)")
    drawing, axes = panels(min(len(found), PANELS), height=2.6)
    there = {module for _, modules in found for module in modules}
    order = [*(m for m in ("mlp", "attention") if m in there), *sorted(there - {"mlp", "attention"})]
    grid = np.linspace(0, 1, 257)
    for axis, (title, modules) in zip(axes, found, strict=False):
        for i, module in enumerate(order):
            if module in modules:
                alphas = np.array(modules[module])
                axis.plot(grid, _density(alphas, grid), label=module, **look(i))
                axis.axvline(alphas.mean(), linewidth=0.8, **look(i))
        axis.set(title=title, xlabel="alpha (line: its mean)", ylabel="density", xlim=(0, 1), ylim=(0, None))
    below(drawing, axes)
    return drawing


def _tables(cells: Sequence[Cell], name: str) -> dict[str, tuple[tuple[Values, Values, Values], int]]:
    """By module: (layers, steps, mean [layers, steps]) and number of runs; MLP and attention, if they are there."""
    sums: dict[str, dict[tuple[float, float], list[float]]] = {}
    runs: dict[str, set[int]] = {}
    for i, cell in enumerate(cells):
        for row in cell.layers:
            value, layer = number(row.get(name)), number(row.get("layer"))
            if np.isfinite(value) and np.isfinite(layer):
                module = str(row.get("module"))
                sums.setdefault(module, {}).setdefault((layer, number(row.get("step"))), []).append(value)
                runs.setdefault(module, set()).add(i)
    chosen: list[str] = [module for module in ("mlp", "attention") if module in sums] or [*sums]
    out: dict[str, tuple[tuple[Values, Values, Values], int]] = {}
    for module in chosen:
        layers = np.unique([layer for layer, _ in sums[module]])
        steps = np.unique([step for _, step in sums[module]])
        table = np.full((len(layers), len(steps)), np.nan)
        for (layer, step), values in sums[module].items():
            table[np.searchsorted(layers, layer), np.searchsorted(steps, step)] = np.mean(values)
        out[module] = ((layers, steps, table), len(runs[module]))
    return out


def _density(alphas: Values, grid: Values) -> Values:
    """Kernel density with reflection at 0 and 1, so that it is a density there; a spike where all are equal."""
    spread = max(float(np.std(alphas)), 1e-3)
    width = max(0.01, 0.9 * spread * len(alphas) ** -0.2)  # Silverman's rule
    bins, edges = np.histogram(alphas, bins=512, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    places = np.concatenate([-centres, centres, 2 - centres])
    kernel = np.exp(-0.5 * ((grid[:, None] - places) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return kernel @ np.tile(bins, 3) / len(alphas)
