"""Outcomes of an experiment's claims, as rows of the report. The claims themselves stand in the experiment's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcr_run.report.cells import Cell


def outcomes(experiment: Mapping[str, Any], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each claim of the file's content ``experiment``; none is judged yet."""
    return []
