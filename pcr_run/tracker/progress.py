"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from pcr_run.records.number import number

FIELDS = (
    ("reward", "reward", partial(number, places=3)),
    ("eval/{task}/pass@1", "Pass@1", "{:.1%}".format),
    ("kl", "KL", partial(number, places=4)),
    ("conflict_rate", "conflicts", "{:.0%}".format),
    ("alpha", "alpha", "{:.2f}".format),
    ("perf/tokens_per_second", "tokens/s", "{:,.0f}".format),
)
"""(metric, its label, how it is written); a metric not measured at a step shows its last value."""

BLOCKS = "▁▂▃▄▅▆▇█"


class Lines:
    """One line a step."""

    def __init__(self, task: str, steps: int, start: int = 0, console: Console | None = None) -> None:
        self.task, self.steps, self.start = task, steps, start
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.seen: dict[str, float] = {}
        self.began: float | None = None

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Print the step."""
        self.console.print(f"step {step}/{self.steps}  {self._describe(step, metrics)}")

    def status(self, text: str) -> None:
        """Print what the run does now, and start the clock of the steps anew."""
        self.began = None
        self.console.print(text)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _describe(self, step: int, metrics: Mapping[str, float | None]) -> str:
        self.seen.update({key: value for key, value in metrics.items() if value is not None})
        parts = []
        for metric, label, form in FIELDS:
            value = self.seen.get(metric.format(task=self.task))
            if value is not None:
                parts.append(f"{label} {form(value)}")
        left = self._left(step)
        return "  ".join([*parts, f"left {_clock(left)}"] if left is not None else parts)

    def _left(self, step: int) -> float | None:
        """Seconds that the remaining steps will take at the pace since the first one seen."""
        now = time.monotonic()
        if self.began is None:
            self.began, self.start = now, step
            return None
        return (now - self.began) / max(step - self.start, 1) * (self.steps - step)


class Bar(Lines):
    """A progress bar with the metrics and a small curve of the reward below it, refreshed in place."""

    def __init__(self, task: str, steps: int, start: int = 0, console: Console | None = None) -> None:
        super().__init__(task, steps, start, console or Console(highlight=False))
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=self.console)
        self.row = self.bar.add_task("starting", total=steps, completed=start)
        self.live = Live(self.bar, console=self.console, refresh_per_second=4)
        self.rewards: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Refresh the display."""
        self.bar.update(self.row, completed=step, description="training")
        reward = metrics.get("reward")
        if reward is not None:
            self.rewards.append(reward)
        self.live.update(Group(self.bar, Text(self._describe(step, metrics)), Text(sparkline(self.rewards))))

    def status(self, text: str) -> None:
        """Name what the run does now before the bar."""
        self.began = None
        self.bar.update(self.row, description=text)

    def __enter__(self) -> Bar:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as a curve of ``width`` blocks at most, each the mean of equally many neighbours, with its range.

    >>> sparkline([0.0, 0.5, 1.0])
    'reward ▁▅█ 0.00 to 1.00'
    """
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [fmean(part) for part in parts]
    low, high = min(means), max(means)
    blocks = "".join(BLOCKS[round((mean - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for mean in means)
    return f"reward {blocks} {low:.2f} to {high:.2f}"


def make(mode: str, task: str, steps: int, start: int = 0) -> Lines:
    """``live``, ``lines``, or ``auto``: live where the output is a terminal."""
    live = mode == "live" or (mode == "auto" and Console().is_terminal)
    return (Bar if live else Lines)(task, steps, start)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
