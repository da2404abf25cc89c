"""Dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2): groups without signal are replaced.

A step's P slots hold the prompts that it would have without it. Slots whose G rewards are all equal ask for fresh
prompts, round by round; the first groups with a signal take them, in order. What is left when rounds or fresh prompts
run out keeps its own group, so a batch always has P groups. Which fresh prompts come up is a function of seed, step and
round alone; which of them are used depends on rewards, and with them on all that was trained before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pcr_run.data import Completion, Score
from pcr_run.seeds import derive, take

Q = TypeVar("Q")


@dataclass(frozen=True)
class Group:
    """G responses to one question, scored."""

    completions: Sequence[Completion]
    texts: Sequence[str]
    scores: Sequence[Score]

    @property
    def signal(self) -> bool:
        """Whether some reward differs from another."""
        return len({score.value for score in self.scores}) > 1


def fresh(questions: Sequence[Q], used: Sequence[Q], count: int, step: int, round_: int, seed: int) -> list[Q]:
    """At most ``count`` questions that the step has not asked, from an order of their own for each step and round."""
    seen = {id(question) for question in used}
    order = take(questions, 0, len(questions), derive(seed, "fresh", step, round_))
    return [question for question in order if id(question) not in seen][:count]


def filled(
    questions: Sequence[Q],
    chosen: Sequence[Q],
    sample: Callable[[Sequence[Q], int], list[Group]],
    step: int,
    rounds: int,
    seed: int,
) -> tuple[list[Q], list[Group], dict[str, float], list[Group]]:
    """The step's questions and groups, metrics, and all groups sampled, used or not.

    ``chosen``: the step's own P prompts; ``sample(questions, round)`` gives a group for each, ``round`` from 0;
    ``rounds``: the most there may be, that of ``chosen`` among them. Metrics: ``dynamic/rounds``, ``replaced`` slots,
    ``dropped`` groups that were sampled in vain, and the ``pass_rate`` of the first round, which nothing selected.
    """
    slots, groups, used = list(chosen), sample(chosen, 0), list(chosen)
    every, done, replaced = list(groups), 1, 0
    right = [score.verdict == "correct" for group in groups for score in group.scores]
    empty = [slot for slot, group in enumerate(groups) if not group.signal]
    while empty and done < rounds:
        asked = fresh(questions, used, len(empty), step, done, seed)
        if not asked:
            break
        found = sample(asked, done)
        every, used, done = [*every, *found], [*used, *asked], done + 1
        for question, group in zip(asked, found, strict=True):
            if group.signal:
                slot = empty.pop(0)
                slots[slot], groups[slot] = question, group
                replaced += 1
    metrics = {
        "dynamic/rounds": done,
        "dynamic/replaced": replaced,
        "dynamic/dropped": len(every) - len(groups),
        "dynamic/pass_rate": sum(right) / len(right),
    }
    return slots, groups, metrics, every
