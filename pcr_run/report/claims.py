"""Outcomes of claims that were fixed before the runs: supported, contradicted or undecided, over all experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Experiment
from pcr_run.report.grid import Entry, Estimate, Grid
from pcr_run.report.measures import final
from pcr_run.report.statistics import exclusive_holm, mean_interval, power, t_tail
from pcr_run.report.traits import TRAITS, theorem_5_1
from pcr_run.schema import FREE

LEVEL = 0.05
COLUMNS = ("claim", "source", "statistic", "difference", "n", "of interest", "p for", "p against", "power", "outcome")
NOTES = (
    "difference: mean over n seeds with its 95% t-interval, of the claim's runs minus those it compares with, paired "
    "by seed and by every other key that varies; scores in points.",
    "p for: of the null hypothesis that there is no effect in the claimed direction (for 'equal': that it is as large "
    "as the smallest of interest); p against: that it is at least that large (for 'equal': no larger). One-sided "
    "t-tests, both families together corrected by Holm over all claims of this report.",
    "supported: p for is below 5%; contradicted: p against is; 'supported, but small': both, so an effect smaller than "
    "of interest; else undecided. power: of the uncorrected test for an effect of that size, given the spread seen.",
)


def outcomes(experiments: Sequence[Experiment], draws: int = 5) -> dict[str, Grid]:
    """A table of claims for every experiment that has some, by its name. ``draws``: of a claim without runs."""
    found = []
    for each in experiments:
        for claim in (each.given.get("claims") or {}).values():
            effects = theorem_5_1(draws) if claim["statistic"] == "theorem_5_1" else differences(claim, each.cells)
            reason = "needs two seeds" if effects else _missing(claim, each.cells)
            found.append((each.name, claim, effects, reason, pvalues(claim, effects)))
    adjusted = exclusive_holm([pair for *_, pair in found])
    rows: dict[str, list[dict[str, Entry]]] = {}
    for (experiment, claim, effects, reason, _), pair in zip(found, adjusted, strict=True):
        rows.setdefault(experiment, []).append(_row(claim, effects, reason, pair))
    return {name: Grid("Claims", COLUMNS, tuple(each), NOTES) for name, each in rows.items()}


def differences(claim: Mapping[str, Any], cells: Sequence[Cell]) -> list[float]:
    """One number a seed: the statistic of the claim's runs minus that of the runs it compares with, or its ``value``.

    Runs are compared where all that varies else is the same (options of the rule and of measuring aside), and averaged
    over it. With ``spread`` the statistic is its range over the values of that key.
    """
    chosen = [cell for cell in cells if cell.complete and cell.matches(claim.get("where") or {})]
    of, against = claim.get("of") or {}, claim.get("against")
    aside = {*of, *(against or {}), claim.get("spread"), "seed"}
    keys = [
        key
        for key in dict.fromkeys(key for cell in chosen for key in cell.config)
        if key not in aside and key.split(".")[0] not in (*FREE, "resolver", "measure")
    ]
    keys = [key for key in keys if len({str(cell.value(key)) for cell in chosen}) > 1]
    ours = _by_place([cell for cell in chosen if cell.matches(of)], keys, claim)
    if against is None:
        pairs = {place: value - claim.get("value", 0.0) for place, value in ours.items()}
    else:
        theirs = _by_place([cell for cell in chosen if cell.matches(against)], keys, claim)
        pairs = {place: ours[place] - theirs[place] for place in ours if place in theirs}
    seeds = sorted({seed for seed, _ in pairs})
    return [fmean(value for (seed, _), value in pairs.items() if seed == each) for each in seeds]


def pvalues(claim: Mapping[str, Any], effects: Sequence[float]) -> tuple[float, float]:
    """(p for, p against) of one claim, not corrected; (1, 1) for fewer than two seeds."""
    interest = claim["interest"]
    if len(effects) < 2:
        return 1.0, 1.0
    if claim["direction"] == "equal":  # two one-sided tests (Schuirmann 1987)
        inside = max(t_tail(effects, -interest), t_tail([-x for x in effects], -interest))
        outside = 2 * min(t_tail(effects, interest), t_tail([-x for x in effects], interest))
        return inside, min(1.0, outside)
    signed = [-x for x in effects] if claim["direction"] == "less" else list(effects)
    return t_tail(signed, 0.0), t_tail([-x for x in signed], -interest)


def verdict(p_for: float, p_against: float) -> str:
    """The outcome of corrected p-values."""
    if p_for < LEVEL:
        return "supported, but small" if p_against < LEVEL else "supported"
    return "contradicted" if p_against < LEVEL else "undecided"


def _row(
    claim: Mapping[str, Any], effects: Sequence[float], reason: str, pair: tuple[float, float]
) -> dict[str, Entry]:
    """``reason``: why it is undecided where there are fewer than two ``effects``."""
    seen = Estimate(*mean_interval(effects), sign="+", places=3) if effects else None
    enough = len(effects) > 1
    return {
        "claim": claim["text"],
        "source": claim.get("source", ""),
        "statistic": claim["statistic"] + (f", range over {claim['spread']}" if claim.get("spread") else ""),
        "difference": seen,
        "n": len(effects),
        "of interest": f"{claim['direction']}, {claim['interest']:g}",
        "p for": f"{pair[0]:.3g}" if enough else None,
        "p against": f"{pair[1]:.3g}" if enough else None,
        "power": f"{power(claim['interest'], effects):.0%}" if enough and claim["direction"] != "equal" else None,
        "outcome": verdict(*pair) if enough else f"undecided: {reason}",
    }


def _missing(claim: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Why a claim has no differences: runs that are still to be made, a measure that they do not have, or no pairs."""
    chosen = [cell for cell in cells if cell.complete and cell.matches(claim.get("where") or {})]
    for side in (claim.get("of") or {}, claim.get("against") or {}):
        runs = [cell for cell in chosen if cell.matches(side)]
        if not runs:
            return "no such runs yet"
        if not any(math.isfinite(_statistic(claim, cell)) for cell in runs):
            return f"no run has the measure {claim['statistic']}"
    return f"needs two values of {claim['spread']}" if claim.get("spread") else "no two runs differ in nothing else"


def _statistic(claim: Mapping[str, Any], cell: Cell) -> float:
    return TRAITS[claim["statistic"]](cell) if claim["statistic"] in TRAITS else final(cell, claim["statistic"])


def _by_place(cells: Sequence[Cell], keys: Sequence[str], claim: Mapping[str, Any]) -> dict[tuple[int, Any], float]:
    """The statistic by seed and by what else varies; the mean where several runs stand in one place."""
    found: dict[tuple[int, Any], list[float]] = {}
    for cell in cells:
        value = _statistic(claim, cell)
        if math.isfinite(value):
            found.setdefault((cell.seed, tuple(str(cell.value(key)) for key in keys)), []).append(value)
    if claim.get("spread"):
        return {place: float(np.ptp(values)) for place, values in found.items() if len(values) > 1}
    return {place: fmean(values) for place, values in found.items()}
