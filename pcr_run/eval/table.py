"""The table at the end: scores with 95% intervals, and paired differences to the first model. From files alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcr_run.records import result
from pcr_run.records.jsonl import read
from pcr_run.records.number import number
from pcr_run.report.grid import aligned
from pcr_run.report.harness import is_share
from pcr_run.report.statistics import half_width, mean_interval

COLUMNS = (
    "benchmark",
    "model",
    "score",
    "value",
    "ci95",
    "difference",
    "difference_ci95",
    "questions",
    "n",
    "truncated",
)
NOTES = """\
± is the half-width of a 95% t-interval over questions. `difference` is to the first model, paired by question; without
± where lm-eval or a perplexity gives no questions to pair. `truncated`: share of answers cut at the limit of tokens."""

Row = dict[str, Any]


def show(directories: Sequence[Path], where: Path) -> None:
    """Write ``evaluations.md`` and ``evaluations.csv`` over models, the first of which the others are compared with.

    Models without results are told below the table.
    """
    rows = table([_read(directory) for directory in directories])
    with (where / "evaluations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    failed = [
        f"{found.get('model', directory.name)}: {found.get('status', 'not started')} ({found.get('reason') or ''})"
        for directory in directories
        if (found := result.read(directory)).get("status") != "complete"
    ]
    text = "\n".join([markdown(rows), "", NOTES, *failed, ""])
    (where / "evaluations.md").write_text(text, encoding="utf-8")
    print(f"{text}results: {where}")


def table(models: Sequence[tuple[str, Row]]) -> list[Row]:
    """A row for each score of each benchmark and model; ``models`` are (name, line of evaluations.jsonl)."""
    first = {row["key"]: row for row in _rows(*models[0])} if models else {}
    rows = []
    for index, (name, line) in enumerate(models):
        for row in _rows(name, line):
            if index and row["key"] in first:
                row |= _compared(first[row["key"]], row)
            rows.append(row)
    order = list(dict.fromkeys(row["key"] for row in rows))
    return [{key: row.get(key) for key in COLUMNS} for row in sorted(rows, key=lambda row: order.index(row["key"]))]


def _rows(model: str, line: Mapping[str, Any]) -> Iterator[Row]:
    """Scores of one model, each with what it can be compared by: ``units``, a value a question, of ``items``."""
    for task, score in line.get("tasks", {}).items():
        about = {"benchmark": task, "model": model, "questions": score["questions"], "n": score["n"]}
        for label, value, stderr in _scores(score):
            row = {**about, "key": (task, label), "score": label, "value": value}
            row["ci95"] = _half(stderr, score["questions"])
            if label == "Pass@1":
                row |= {"truncated": score["truncated"], "units": score["per_question"], "items": score.get("items")}
            yield row
    if "perplexity" in line:
        about = {"benchmark": "perplexity", "model": model, "key": ("perplexity",), "score": "perplexity"}
        yield {**about, "value": line["perplexity"]}
    for task, found in line.get("harness", {}).items():
        for metric, score in found["metrics"].items():
            about = {"benchmark": f"lm-eval {task}", "model": model, "key": ("harness", task, metric), "score": metric}
            row = {**about, "value": score["value"], "questions": found["questions"]}
            row["ci95"] = _half(score["stderr"], found["questions"])
            yield row | ({"units": found["per_question"]} if metric == "acc" and "per_question" in found else {})


def _scores(score: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Pass@1, pass@n and maj@n with their standard errors, where there are several samples."""
    found = [("Pass@1", score["pass@1"], score["stderr"])]
    n = score["n"]
    if n > 1:
        found.append((f"pass@{n}", score["pass@k"][str(n)]["value"], score["pass@k"][str(n)]["stderr"]))
        if "maj@n" in score:
            found.append((f"maj@{n}", score["maj@n"]["value"], score["maj@n"]["stderr"]))
    return found


def _compared(first: Row, row: Row) -> Row:
    """The difference of two scores, with its interval where both have values of the same questions."""
    mine, theirs = row.get("units"), first.get("units")
    if mine and theirs and len(mine) == len(theirs) and row.get("items") == first.get("items"):
        change, half = mean_interval([b - a for a, b in zip(theirs, mine, strict=True)])
        return {"difference": change, "difference_ci95": half}
    values = (row["value"], first["value"])
    return {} if None in values or "items" in row else {"difference": values[0] - values[1]}


def _half(stderr: float | None, questions: int) -> float | None:
    """Half the width of the interval; null on disk is a standard error that is not known."""
    if stderr is None or math.isnan(stderr) or questions < 2:
        return None
    return half_width(stderr, questions)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table that also reads well as plain text."""
    lines = [["benchmark", "score", "model", "value", "difference", "questions x n", "truncated"]]
    for row in rows:
        percent = "@" in row["score"] or is_share(row["score"])
        size = "" if row["questions"] is None else f"{row['questions']}" + (f" x {row['n']}" if row["n"] else "")
        cut = "" if row["truncated"] is None else f"{100 * row['truncated']:.1f}%"
        difference = (
            "" if row["difference"] is None else _written(row["difference"], row["difference_ci95"], percent, "+")
        )
        value = _written(row["value"], row["ci95"], percent)
        lines.append([row["benchmark"], row["score"], row["model"], value, difference, size, cut])
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    used = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
    lines = [[line[i] for i in used] for line in lines]
    return aligned(lines)


def _written(value: float | None, half: float | None, percent: bool, sign: str = "") -> str:
    scale, places = (100, 1) if percent else (1, 3)
    text = number(None if value is None else scale * value, places, sign)
    return text if half is None else f"{text} ± {number(scale * half, places)}"


def _read(directory: Path) -> tuple[str, Row]:
    """(name, results) of a model's directory; none where it was not measured this time, whatever it had before."""
    found = result.read(directory)
    lines = read(directory / "evaluations.jsonl") if found.get("status") == "complete" else []
    return str(found.get("model", directory.name)), lines[-1] if lines else {}
