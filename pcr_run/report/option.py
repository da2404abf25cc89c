"""One factor at a time: what a run changes in the configuration that its experiment's runs have in common."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from pcr_run.report.arms import heading, shown
from pcr_run.report.cells import Cell
from pcr_run.schema import FREE

BASELINE = "baseline"


def named(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with their ``option``: overrides like ``learner.kl=k2 resolver=pcr``, or ``baseline`` for none.

    In common is each key's commonest value, that of the first cell where two are as common. The seed is no option.
    """
    keys = dict.fromkeys(key for cell in cells for key in cell.config if key.split(".")[0] not in (*FREE, "seed"))
    values = {key: [shown(cell.config.get(key)) for cell in cells] for key in keys}
    usual = {key: Counter(each).most_common(1)[0][0] for key, each in values.items()}

    def option(i: int) -> str:
        changed = [(heading(key), each[i]) for key, each in values.items() if each[i] != usual[key]]
        return " ".join(f"{key}={value or 'null'}" for key, value in changed) or BASELINE

    return tuple(dataclasses.replace(cell, option=option(i)) for i, cell in enumerate(cells))
