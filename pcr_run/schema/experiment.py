"""Experiments: sweeps in themselves, with what their report shows; and the speeds that an estimate of time assumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pcr_run.right import POSITIVE, at_least, doc

DIRECTIONS = ("greater", "less", "equal")


@dataclass
class ClaimConfig:
    """A statement about runs, fixed before they are made: which number, in which direction, from which size on."""

    text: str = doc("the statement in words")
    source: str = doc("where the paper makes it", "")
    statistic: str = doc("a measure of a run (docs/report.md)")
    of: dict[str, Any] = doc("the runs that it speaks of, by flat keys of the configuration", {})
    against: dict[str, Any] | None = doc("the runs that they are compared with; null = with `value`", None)
    value: float = doc("what the statistic is compared with where there is no `against`", 0.0)
    where: dict[str, Any] = doc("only these runs, on both sides", {})
    spread: str | None = doc("a key: the statistic's range over its values, instead of the statistic", None)
    direction: str = doc("what is claimed of the difference", right=DIRECTIONS)
    interest: float = doc("smallest difference of interest, in units of the statistic", right=at_least(0))


@dataclass
class ExperimentConfig:
    """A part of the paper: the runs that it needs at each scale, and what a report shows of them."""

    title: str = doc("heading of its section")
    source: str = doc("the table or figure of the paper", "")
    order: int = doc("place of its section among the others", 0, at_least(0))
    text: str = doc("a paragraph under the heading", "")
    grids: dict[str, list[str]] = doc("by scale: command lines of sweeps; their runs together are the experiment's", {})
    tables: list[Any] = doc("tables (docs/report.md)", [])
    figures: list[Any] = doc("figures (docs/report.md)", [])
    claims: dict[str, ClaimConfig] = doc("claims by name", {})


@dataclass
class ThroughputConfig:
    """Speeds that the dry run of an experiment multiplies with; they change nothing else. Null = no estimate."""

    sampled: float | None = doc("tokens a second that a rollout worker samples", None, POSITIVE)
    trained: float | None = doc("tokens a second that the learner takes under `resolver=none`", None, POSITIVE)
    second: float = doc("time of a step that measures two gradients, in steps of `none`", 1.6, at_least(1))
    parameters: float | None = doc("size of the model that they were measured at; time grows with it", None, POSITIVE)
    response: float = doc("mean length of a response, in shares of the longest", 0.5, at_least(0))
