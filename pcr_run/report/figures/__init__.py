"""Cells in; a figure out: one function a kind. May import records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing

from pcr_run.report import arms
from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Figure
from pcr_run.report.figures import curves, layers, scores, style

KINDS: dict[str, Callable[[Figure, Sequence[Cell]], Drawing]] = {
    "curves": curves.curves,
    "grad_norm": curves.grad_norm,
    "cosine": curves.cosine,
    "time": scores.time,
    "pareto": scores.pareto,
    "sensitivity": scores.sensitivity,
    "forgetting": scores.forgetting,
    "heatmap": layers.heatmap,
    "alpha_density": layers.alpha_density,
}


def draw(figure: Figure, cells: Sequence[Cell]) -> Drawing:
    """The figure of those cells that its ``where`` takes; where data is missing it says which."""
    chosen = [cell for cell in cells if cell.matches(figure.where)]
    with rc_context(style.RC):
        try:
            if not chosen:
                raise style.MissingError(
                    "no run has these values: " + ", ".join(f"{k}={v}" for k, v in figure.where.items())
                )
            drawing = KINDS[figure.kind](figure, chosen)
        except style.MissingError as missing:
            drawing = style.sentence(str(missing))
        if figure.title:
            drawing.suptitle(figure.title)
    return drawing


CAPTIONS = {
    "curves": "Learning curves; bands are 95% t-intervals over three runs or more, thin lines one of two runs",
    "grad_norm": "Gradient norm at each step",
    "cosine": "Cosine of the update with the stability gradient",
    "time": "Score against training time",
    "pareto": "Trade-off at the end of training; bars are 95% t-intervals over runs, small points are runs",
    "sensitivity": "Sensitivity; bars are 95% t-intervals over runs",
    "forgetting": "Forgetting: change from before to after training; bars are 95% t-intervals, ticks are runs",
    "heatmap": "Cosine of the two gradients by layer and step",
    "alpha_density": "Density of alpha by module",
}
"""What a figure without a title of its own shows."""


def caption(figure: Figure) -> str:
    """Its title, or what its kind shows; with the runs that it takes."""
    only = ", ".join(f"{key} = {arms.shown(value)}" for key, value in figure.where.items())
    return (figure.title or CAPTIONS[figure.kind]) + (f" ({only})" if only else "")
