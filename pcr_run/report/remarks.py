"""Warnings that matter to who reads the numbers: what was cut, not read, skipped, or taught nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pcr_run.report.cells import Cell
from pcr_run.report.measures import column, mean, number

CUT, UNPARSED, SILENT, JUDGE, FEW = 5.0, 10.0, 50.0, 1.0, 10.0
"""Shares in percent from which on something is said (``FEW``: of the weights that an update changed, below which)."""

FAILURES = ("timeout", "stalled", "error", "refused")


def remarks(
    cells: Sequence[Cell], missing: Sequence[str] = (), repeated: Sequence[Cell] = (), changed: Sequence[str] = ()
) -> list[str]:
    """Sentences, the gravest first; each names its runs (``changed``: times at which claims were)."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for text, value in _of_cell(cell):
            found.setdefault(text, []).append(f"{cell.directory.name}{f' ({value})' if value else ''}")
    if changed:
        found["Claims that were changed after runs had begun, at"] = list(changed)
    for name in missing:
        found.setdefault("Runs that were not started", []).append(name)
    for cell in repeated:
        found.setdefault("Runs that repeat another one's configuration and are left out", []).append(
            str(cell.directory)
        )
    return [f"{text}: {_some(names)}" for text, names in sorted(found.items(), key=lambda pair: _grave(pair[0]))]


def _of_cell(cell: Cell) -> Iterator[tuple[str, str]]:
    """(what is the matter, how much)."""
    if not cell.complete:
        yield f"Runs that are {cell.status} and count in no table", str(cell.result.get("reason") or "")[:200]
    for task, scores in cell.scores.items():
        after = scores.get("after") or {}
        for key, text in (("truncated", "cut at the limit of tokens"), ("unclosed_thoughts", "inside a thought")):
            share = 100 * number(after.get(key))
            if share >= CUT:
                yield f"Evaluated answers that end {text}, {task}", f"{share:.0f}%"
        if after.get("ungradable"):
            yield f"Questions of {task} that nothing could judge", f"{len(after['ungradable'])}"
    for task, overlap in (cell.result.get("overlap") or {}).items():
        shared = sum((overlap or {}).get(key) or 0 for key in ("same", "ngram"))
        if shared:
            yield f"Training questions that {task} holds out as well, or that share 13 words with one", f"{shared}"
    if (perplexity := cell.result.get("perplexity")) and perplexity.get("after") is None:
        yield "Perplexity is not finite", ""
    if cell.metrics:
        yield from _of_training(cell)


def _of_training(cell: Cell) -> Iterator[tuple[str, str]]:
    prompts, group = number(cell.config.get("rollout.prompts")), number(cell.config.get("rollout.group"))
    cut = 100 * mean(column(cell, "truncated")) / (prompts * group)
    if cut >= CUT:
        yield "Training responses that were cut at the limit of tokens", f"{cut:.0f}%"
    verdicts = {key: mean(column(cell, key)) for key in cell.metrics[-1] if key.startswith("verdict/")}
    total = sum(value for value in verdicts.values() if value == value)
    if total:
        unparsed = 100 * verdicts.get("verdict/unparsed", 0.0) / total
        if unparsed >= UNPARSED:
            yield "Training responses without a readable answer", f"{unparsed:.0f}%"
        failed = 100 * sum(verdicts.get(f"verdict/{name}", 0.0) for name in FAILURES) / total
        if failed >= JUDGE:
            yield "Training responses that could not be judged (timeout, error, refused)", f"{failed:.0f}%"
    skipped = sum(value for value in column(cell, "nonfinite") if value > 0)
    if skipped:
        yield "Updates that were skipped because their gradient was not finite", f"{skipped:g}"
    silent = 100 * mean(column(cell, "zero_advantage_groups")) / prompts
    if silent >= SILENT:
        yield "Groups of responses without a signal (all with the same reward)", f"{silent:.0f}%"
    changed = 100 * mean(column(cell, "weights_changed"))
    if changed < FEW:
        yield "Updates that changed few weights: rounding ate them", f"{changed:.1f}% changed"


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _grave(text: str) -> int:
    return 0 if text.startswith(("Runs that are", "Claims")) else 1
