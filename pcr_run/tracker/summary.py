"""The table at the end of a run, read from its result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcr_run.records.number import number


def show(result: Mapping[str, Any], directory: Path, console: Console | None = None) -> None:
    """Print scores before and after with the difference and its standard error, retention, time and place.

    ``result`` is what stands in result.json; the trained task comes first, the others are what was retained.
    """
    console = console or Console(highlight=False)
    table = Table(title=f"{result['task']} with {result['resolver']}, seed {result['seed']}", title_justify="left")
    for name in ("", "before", "after", "difference"):
        table.add_column(name, justify="left" if not name else "right")
    scores = result.get("scores", {})
    for task in sorted(scores, key=lambda name: name != result["task"]):
        score = scores[task]
        before, after = score["before"], score["after"]
        label = f"{task} Pass@1" + ("" if task == result["task"] else " (not trained)")
        change = f"{100 * score['difference']:+.1f} ± {100 * score['stderr']:.1f}"
        table.add_row(label, f"{100 * before['pass@1']:.1f}%", f"{100 * after['pass@1']:.1f}%", change)
    if perplexity := result.get("perplexity"):
        before, after = perplexity["before"], perplexity["after"]
        moved = None if None in (before, after) else after - before
        table.add_row("perplexity", number(before), number(after), number(moved, sign="+"))
    console.print(table)
    if scores:
        after = scores[result["task"]]["after"]
        how = f"{after['questions']} questions x {after['n']} samples at temperature {after['temperature']:g}"
        console.print(f"Pass@1 over {how}; ± is the standard error, questions as clusters.", soft_wrap=True)
    for task, score in scores.items():
        for line in remarks(score["after"]):
            console.print(f"{task}: {line}", soft_wrap=True)
    for task, found in result.get("overlap", {}).items():
        for line in shared(found):
            console.print(f"{task}: {line}", soft_wrap=True)
    seconds = result.get("seconds", {})
    if seconds:
        phases = "  ".join(f"{phase} {value:.1f}" for phase, value in seconds.items())
        console.print(f"seconds: {phases}", soft_wrap=True)
    console.print(f"run: {directory}", soft_wrap=True)


def remarks(score: Mapping[str, Any]) -> list[str]:
    """What a reader of a score has to know: answers cut short, thoughts without an end, questions without a judge."""
    lines = []
    if score.get("truncated"):
        lines.append(f"{100 * score['truncated']:.1f}% of the answers were cut at the limit of tokens")
    if score.get("unclosed_thoughts"):
        lines.append(f"{100 * score['unclosed_thoughts']:.1f}% of the answers never ended their thought")
    if score.get("ungradable"):
        names = list(score["ungradable"])
        told = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        lines.append(f"{len(names)} questions cannot be judged: {told}")
    return lines


def shared(found: Mapping[str, int]) -> list[str]:
    """What training and the held-out questions of a task had in common, where they had."""
    lines = []
    of = f"of {found['train']} training questions"
    if found["same"]:
        lines.append(f"{found['same']} {of} are among its {found['test']} held-out ones; they were not trained on")
    if found["ngram"]:
        lines.append(f"{found['ngram']} {of} share 13 words in a row with one of its {found['test']} held-out ones")
    return lines
