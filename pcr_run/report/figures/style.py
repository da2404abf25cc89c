"""How figures look: a palette for the colour-blind, with line styles and markers that tell arms apart in grey too."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "osD^vPX*"
"""7 colours, 4 dashes and 8 markers: 28 lines differ in colour or dash, and neighbours in all three."""

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.w_pad": 0.08,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "svg.hashsalt": "pcr-run",
    "text.parse_math": False,  # names are texts, not formulas
    "path.simplify": True,
}
FORMS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 150, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
}
"""Nothing in a file depends on when and by what it was made."""


class MissingError(Exception):
    """What a figure needs is not in the files; the message says what."""


def look(i: int) -> dict[str, Any]:
    """Colour and dash of the i-th line."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i % len(DASHES)]}


def point(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th arm's points."""
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}


def panels(count: int, columns: int = 3, width: float = 4.0, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes in rows of ``columns``."""
    columns = 2 if count == 4 else min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(5.5, width * columns), height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all axes, below them: each name once."""
    handles = {name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        width, height = figure.get_size_inches()
        fit = min(len(handles), max(1, int(width * 14 / (max(map(len, handles)) + 6))))
        figure.set_size_inches(width, height + 0.2 * math.ceil(len(handles) / fit))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=fit)


def say(axis: Axes, text: str) -> None:
    """A sentence in the place of a panel."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=axis.transAxes)


def sentence(text: str) -> Figure:
    """A figure that is a sentence only."""
    figure, (axis,) = panels(1, height=1.2)
    say(axis, text)
    return figure


def rendered(figure: Figure) -> dict[str, bytes]:
    """The figure in each form, by file ending; the same figure gives the same bytes."""
    out = {}
    with rc_context(RC):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not for each form
        for form, options in FORMS.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, **options)
            out[form] = buffer.getvalue()
    return out
