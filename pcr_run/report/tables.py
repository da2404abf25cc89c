"""Tables of scores: one line an arm, and one line an arm and benchmark with all that can be said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pcr_run.report import harness, printed, statistics
from pcr_run.report.arms import Values, arms, by_seed, heading, legend, partner
from pcr_run.report.cells import Cell
from pcr_run.report.experiment import Experiment, Table
from pcr_run.report.grid import Entry, Estimate, Grid
from pcr_run.report.measures import final, mean, number
from pcr_run.report.printed import Line

AVERAGE = "average"
BEFORE = "before training"
TRAINED = ("resolver", "measure", "learner", "rollout", "reward", "steps", "option")
"""Groups of keys that say how a model is trained, not which one it was before."""
Groups = Mapping[Values, Mapping[int, Cell]]

SCORES = (
    "Pass@1 in percent at the last evaluation; ± is the half-width of a 95% t-interval over n seeds.",
    "(x% cut): the share of answers that were cut at the limit of tokens.",
)
DETAILS = (
    "change: after training minus before, in points, seed by seed.",
    "Differences in points, paired by seed; ± is the half-width of a 95% t-interval over the pairs.",
    "bootstrap: 95% interval of the difference over resampled seeds and questions, paired by both.",
    "IQM: interquartile mean over seeds. P(better): probability that a run scores higher than one of the other arm.",
    "smallest effect: the true difference that this n finds with 80% power at 5%, two-sided, given the spread.",
)


def tables(experiment: Experiment, table: Table, where: str) -> list[Grid]:
    """The grids of a table: scores (with the printed numbers, where it wants them) and details; none without scores.

    ``where`` names the table in a ``ConfigError``: its rows do not tell two complete runs apart.
    """
    cells = [cell for cell in experiment.cells if cell.matches(table.where)]
    groups = {values: by_seed(group, f"{where}.rows") for values, group in arms(cells, table.rows).items()}
    groups = {values: seeds for values, seeds in groups.items() if seeds}
    complete = [cell for seeds in groups.values() for cell in seeds.values()]
    tasks, measured = list(dict.fromkeys(task for cell in complete for task in cell.scores)), harness.names(complete)
    wanted = table.benchmarks or (*tasks, *measured)
    names, extra = ([name for name in wanted if name in known] for known in (tasks, measured))
    unknown = [name for name in wanted if name not in (*tasks, *measured)] if complete else []
    notes = (*SCORES, *([f"No complete run was evaluated on: {', '.join(unknown)}."] if unknown else []))
    columns = (*map(heading, table.rows), "n", *names, AVERAGE, "perplexity", *extra)
    lines = list(_lines(table, groups, names, extra))
    if table.printed is None:
        found = [Grid(table.title, columns, tuple(line.row for line in lines), notes)]
    else:
        found = printed.beside(table.printed, table.title, columns, lines, notes)
    details = tuple(row for values in groups for row in _details(table, groups, values, names, extra))
    columns = ("n", "score", "change", "IQM", "pass@k", "maj@n", "against", "pairs", "difference", "bootstrap")
    columns = (*map(heading, table.rows), "benchmark", *columns, "P(better)", "smallest effect")
    return [*found, Grid(f"{table.title}: details", columns, details, DETAILS)]


def _lines(table: Table, groups: Groups, names: Sequence[str], extra: Sequence[str]) -> Iterator[Line]:
    """A line an arm; before the arms that began with the same model, one for that model."""
    keys = table.rows
    trained = [key.split(".")[0] in TRAINED for key in keys]
    begun: set[Values] = set()
    for values, seeds in groups.items():
        origin = tuple("" if own else value for value, own in zip(values, trained, strict=True))
        model = str(next(iter(seeds.values())).config.get("model.path") or "")
        if any(trained) and origin not in begun:
            begun.add(origin)
            same: dict[int, list[Cell]] = {}
            for other, cells in groups.items():
                if all(own or a == b for a, b, own in zip(values, other, trained, strict=True)):
                    for seed, cell in cells.items():
                        same.setdefault(seed, []).append(cell)
            who = dict(zip(map(heading, keys), origin, strict=True))
            who[heading(keys[trained.index(True)])] = BEFORE
            yield Line(model, "base", {**who, **_estimates(list(same.values()), names, extra, "before")})
        who = dict(zip(map(heading, keys), values, strict=True))
        rule = str(next(iter(seeds.values())).config.get("resolver.name"))
        yield Line(model, rule, {**who, **_estimates([[cell] for cell in seeds.values()], names, extra, "after")})


def _estimates(
    seeds: Sequence[Sequence[Cell]], names: Sequence[str], extra: Sequence[str], when: str
) -> dict[str, Entry]:
    """n and an estimate for each column, over the seeds that have it; several cells of one seed count as their mean.

    ``extra``: what lm-eval measured, which is not part of the average.
    """
    row: dict[str, Entry] = {"n": len(seeds)}
    several = [*names, AVERAGE] if len(names) > 1 else names
    for name in several:
        wanted = names if name == AVERAGE else [name]
        values = [mean([_score(cell, wanted, when) for cell in cells]) for cells in seeds]
        cut = mean([_cut(cell, wanted, when) for cells in seeds for cell in cells])
        row[name] = _estimate(values, None if math.isnan(cut) else cut)
    row["perplexity"] = _estimate([float(np.mean([_perplexity(c, when) for c in cells])) for cells in seeds], places=3)
    for name in extra:
        values = [mean([_score(cell, [name], when) for cell in cells]) for cells in seeds]
        row[name] = _estimate(values, places=1 if harness.is_share(name.rpartition("/")[2]) else 3)
    return row


def _details(
    table: Table, groups: Groups, values: Values, names: Sequence[str], extra: Sequence[str]
) -> Iterator[dict[str, Entry]]:
    """A row for each benchmark of an arm, for their average, and for each of lm-eval's shares."""
    seeds = groups[values]
    other = partner(values, table.rows, table.against, list(groups)) if table.against else None
    who = dict(zip(map(heading, table.rows), values, strict=True))
    shares = [name for name in extra if harness.is_share(name.rpartition("/")[2])]
    for name in [*names, *([AVERAGE] if len(names) > 1 else []), *shares]:
        wanted = list(names) if name == AVERAGE else [name]
        own = {seed: _score(cell, wanted) for seed, cell in seeds.items() if _has(cell, wanted)}
        if not own:
            continue
        found = list(own.values())
        cut = mean([_cut(cell, wanted, "after") for cell in seeds.values()])
        row: dict[str, Entry] = {**who, "benchmark": name, "n": len(found)}
        row |= {"score": _estimate(found, None if math.isnan(cut) else cut)}
        changes = [value - _score(seeds[seed], wanted, "before") for seed, value in own.items()]
        if not any(map(math.isnan, changes)):
            row["change"] = Estimate(*statistics.mean_interval(changes), sign="+")
        row["IQM"] = Estimate(statistics.interquartile_mean(found))
        if name in names:
            row |= _tries([cell for cell in seeds.values() if name in cell.scores], name)
        if other is not None:
            theirs = {seed: _score(cell, wanted) for seed, cell in groups[other].items() if _has(cell, wanted)}
            row |= {"against": legend(other, table.rows)}
            if theirs:
                row["P(better)"] = statistics.probability_of_improvement(found, list(theirs.values()))
            both = [seed for seed in own if seed in theirs]
            row |= _compared([(groups[other][seed], seeds[seed]) for seed in both], wanted)
        yield row


def _compared(pairs: Sequence[tuple[Cell, Cell]], names: Sequence[str]) -> dict[str, Entry]:
    """What is said of the differences of pairs of runs (the second minus the first)."""
    if not pairs:
        return {"pairs": 0}
    differences = [_score(cell, names) - _score(other, names) for other, cell in pairs]
    value, half = statistics.mean_interval(differences)
    row: dict[str, Entry] = {"pairs": len(pairs), "difference": Estimate(value, half, sign="+")}
    smallest = statistics.smallest_effect(differences)
    if smallest is not None:
        row["smallest effect"] = Estimate(smallest)
    answers = [[[_questions(c, name) for name in names] for c in pair] for pair in pairs]
    shapes = {tuple(len(questions or ()) for questions in cell) for pair in answers for cell in pair}
    items = [[c.scores[name]["after"].get("items") for name in names if name in c.scores] for p in pairs for c in p]
    if len(shapes) == 1 and all(shapes.pop()) and all(each == items[0] for each in items):
        each = [np.array([[b[i], a[i]] for a, b in answers], dtype=float) for i in range(len(names))]
        interval = statistics.hierarchical_bootstrap([100 * (d[:, 0] - d[:, 1]) for d in each])
        if interval is not None:
            row["bootstrap"] = "{:+.1f} to {:+.1f}".format(*interval)
    return row


def _tries(cells: Sequence[Cell], name: str) -> dict[str, Entry]:
    """pass@k for the largest k above 1 that all have, and the majority's score."""
    scores = [cell.scores[name]["after"] for cell in cells]
    common = set.intersection(*({int(k) for k in score.get("pass@k") or ()} for score in scores))
    row: dict[str, Entry] = {}
    if (k := max(common, default=1)) > 1:
        row["pass@k"] = f"{100 * mean([number(score['pass@k'][str(k)]['value']) for score in scores]):.1f} (k = {k})"
    if all(score.get("maj@n") for score in scores):
        row["maj@n"] = Estimate(100 * mean([number(score["maj@n"]["value"]) for score in scores]))
    return row


def _estimate(values: Sequence[float], cut: float | None = None, places: int = 1) -> Estimate | None:
    found = [value for value in values if not math.isnan(value)]
    if not found:
        return None
    if math.inf in found:
        return Estimate(math.inf)
    return Estimate(*statistics.mean_interval(found), cut=cut, places=places)


def _has(cell: Cell, names: Sequence[str]) -> bool:
    return not math.isnan(_score(cell, names))


def _score(cell: Cell, names: Sequence[str], when: str = "after") -> float:
    """Mean Pass@1 in percent; nan where one is missing."""
    return float(np.mean([final(cell, name, when) for name in names])) if names else math.nan


def _questions(cell: Cell, name: str) -> list[float] | None:
    """The share of right answers to each question at the end of a run."""
    return cell.scores[name]["after"].get("per_question") if name in cell.scores else harness.per_question(cell, name)


def _cut(cell: Cell, names: Sequence[str], when: str) -> float:
    """Mean share of truncated answers in percent; nan where none is known."""
    scores = [cell.scores[name][when] for name in names if name in cell.scores]
    return mean([100 * score["truncated"] for score in scores if score.get("truncated") is not None])


def _perplexity(cell: Cell, when: str) -> float:
    """Perplexity; infinite where null is on disk (JSON has no infinity), nan where it was not measured."""
    found = cell.result.get("perplexity")
    if not found or when not in found:
        return math.nan
    return math.inf if found[when] is None else float(found[when])
