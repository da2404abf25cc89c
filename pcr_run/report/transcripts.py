"""A sample of the responses that runs recorded, spread over runs and steps and small enough for one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pcr_run.report.cells import Cell
from pcr_run.report.measures import number

MOST, LETTERS, TOTAL = 2000, 8000, 16_000_000
"""Most transcripts of a page, most characters of one text, most characters of all of them."""


def sample(cells: Sequence[Cell], most: int = MOST) -> tuple[list[dict[str, Any]], int]:
    """(transcripts, how many there are on disk). Every run gets an equal share, evenly spaced over its steps."""
    share = max(1, most // max(1, len(cells)))
    found: list[dict[str, Any]] = []
    there, letters = 0, max(500, min(LETTERS, TOTAL // max(1, most)))
    for run, cell in enumerate(cells):
        lines = cell.records("rollouts")
        there += len(lines)
        for i in _spread(len(lines), min(share, most - len(found))):
            found.append({"run": run, **_short(lines[i], str(cell.config.get("task.name")), letters)})
    return found, there


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of 0 to ``count`` - 1, evenly spaced."""
    if wanted >= count:
        return list(range(count))
    return sorted({i * count // wanted for i in range(wanted)})


def _short(line: dict[str, Any], task: str, letters: int) -> dict[str, Any]:
    """What the page shows of a record; what is not as expected becomes text."""
    messages = line.get("prompt")
    prompt = "\n\n".join(
        f"{m.get('role')}: {m.get('content')}" if isinstance(m, dict) else str(m)
        for m in (messages if isinstance(messages, list) else [messages])
    )
    reward, step = line.get("reward"), line.get("step")
    return {
        "task": task,
        "step": step if isinstance(step, int) else None,
        "item": _cut(line.get("item"), 300),
        "prompt": _cut(prompt, letters),
        "response": _cut(line.get("response"), letters),
        "finish": _cut(line.get("finish"), 40),
        "reward": None if math.isnan(number(reward)) else reward,
        "verdict": _cut(line.get("verdict"), 40),
        "detail": _cut(line.get("detail"), 1000),
    }


def _cut(value: Any, letters: int) -> str:
    """Beginning and end of a long text: the answer stands at the end. Half a surrogate pair is no character."""
    text = "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
    if len(text) <= letters:
        return text
    half = letters // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
