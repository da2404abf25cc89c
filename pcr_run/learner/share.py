"""Which rows of a minibatch each rank works on: whole groups, about as many tokens for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pcr_run.distributed import ranks
from pcr_run.learner.batch import Microbatch

Deal = Callable[[list[int], list[bool]], Iterable[Microbatch]]
"""Microbatches of rows, from their lengths and whether they are informative."""


def own(lengths: Sequence[int], informative: Sequence[bool], block: int, deal: Deal) -> list[Microbatch]:
    """This rank's microbatches, as many as any other rank has: at the end come some without rows.

    Every rank knows the whole minibatch and finds the same shares. ``block``: consecutive rows that stay on one rank.
    """
    dealt = []
    for rows in shares(lengths, block, ranks.size()):
        parts = deal([lengths[i] for i in rows], [informative[i] for i in rows]) if rows else ()
        dealt.append([Microbatch([rows[i] for i in part.rows], part.informative) for part in parts])
    mine = dealt[ranks.rank()]
    return mine + [Microbatch([], False)] * (max(map(len, dealt)) - len(mine))


def shares(lengths: Sequence[int], block: int, count: int) -> list[list[int]]:
    """Rows of each of ``count`` ranks: the longest block left goes to the rank that has least."""
    tokens, found = [0] * count, [[] for _ in range(count)]  # type: tuple[list[int], list[list[int]]]
    cost = {start: sum(lengths[start : start + block]) for start in range(0, len(lengths), block)}
    for start in sorted(cost, key=lambda start: -cost[start]):
        least = tokens.index(min(tokens))
        tokens[least] += cost[start]
        found[least] += range(start, min(start + block, len(lengths)))
    return [sorted(rows) for rows in found]
