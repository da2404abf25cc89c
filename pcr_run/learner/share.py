"""Which rows of a minibatch each rank works on: whole groups, about as many tokens for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pcr_run.distributed import ranks
from pcr_run.learner.batch import Microbatch

Deal = Callable[[list[int], list[bool], int], Iterable[Microbatch]]
"""Microbatches of rows, from their lengths, whether they are informative, and how many stay together where they fit."""


def own(
    lengths: Sequence[int], informative: Sequence[bool], block: int, deal: Deal, summed: bool = False
) -> list[Microbatch]:
    """This rank's microbatches, as many as any other rank has: at the end come some without rows.

    Every rank knows the whole minibatch and finds the same shares. ``block``: consecutive rows that stay on one rank.
    ``summed``: the gradient's sum over a block is wanted. Then, if microbatches cut blocks, one block after the other
    is dealt to all ranks row by row: its sum can be kept in shards, which would be whole on the rank of the block.
    """
    plan = _plan(lengths, informative, block, deal)
    if not (summed and ranks.together() and any(_cuts(part.rows, block) for parts in plan for part in parts)):
        return plan[ranks.rank()]
    found = []
    for start in range(0, len(lengths), block):
        rows = slice(start, start + block)
        mine = _plan(lengths[rows], informative[rows], 1, deal)[ranks.rank()]
        for number, part in enumerate(mine, 1):
            found.append(Microbatch([start + i for i in part.rows], part.informative, number == len(mine)))
    return found


def shares(lengths: Sequence[int], block: int, count: int) -> list[list[int]]:
    """Rows of each of ``count`` ranks: the longest block left goes to the rank that has least."""
    tokens, found = [0] * count, [[] for _ in range(count)]  # type: tuple[list[int], list[list[int]]]
    cost = {start: sum(lengths[start : start + block]) for start in range(0, len(lengths), block)}
    for start in sorted(cost, key=lambda start: -cost[start]):
        least = tokens.index(min(tokens))
        tokens[least] += cost[start]
        found[least] += range(start, min(start + block, len(lengths)))
    return [sorted(rows) for rows in found]


def _plan(lengths: Sequence[int], informative: Sequence[bool], block: int, deal: Deal) -> list[list[Microbatch]]:
    """The microbatches of every rank."""
    dealt = []
    for rows in shares(lengths, block, ranks.size()):
        parts = deal([lengths[i] for i in rows], [informative[i] for i in rows], block) if rows else ()
        dealt.append([Microbatch([rows[i] for i in part.rows], part.informative) for part in parts])
    most = max(map(len, dealt))
    return [parts + [Microbatch([], False)] * (most - len(parts)) for parts in dealt]


def _cuts(rows: Sequence[int], block: int) -> bool:
    """Whether there is a part of a block among the rows."""
    return any(count < block for count in Counter(row // block for row in rows).values())
