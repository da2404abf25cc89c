"""Rows of different lengths, one after the other: what stands between packed token ids and the gradients of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that was made on the CPU, on the device; nobody waits until the device has done all work before it."""
    return tensor.to(device, non_blocking=True)


def taken(flat: Tensor, where: slice | Tensor) -> Tensor:
    """Some of the tokens of ``flat``, as ``Ragged.blocks`` names them."""
    return flat[where] if isinstance(where, slice) else flat.index_select(0, where)


@dataclass(frozen=True)
class Ragged:
    """R rows of ``lengths``, M = their sum. ``flat`` tensors are [M, ...], ``padded`` ones [R, L, ...]."""

    lengths: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def longest(self) -> int:
        """L, the length of the longest row."""
        return max(self.lengths)

    @cached_property
    def uniform(self) -> bool:
        """All rows have the same length: flat and padded are the same memory."""
        return min(self.lengths) == self.longest

    @cached_property
    def borders(self) -> tuple[int, ...]:
        """Where rows begin and end [R + 1]."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def positions(self) -> Int[Tensor, " tokens"]:
        """Position of each token in its row."""
        return sent(torch.cat([torch.arange(length) for length in self.lengths]), self.device)

    @cached_property
    def ends(self) -> Int[Tensor, " borders"]:
        """``borders`` on the device, int32 as kernels for ragged rows want them."""
        return sent(torch.tensor(self.borders, dtype=torch.int32), self.device)

    @cached_property
    def place(self) -> Int[Tensor, " tokens"]:
        """Index of each token in the padded rows, counted through, [M]."""
        return self.within(self.longest)

    def within(self, width: int) -> Int[Tensor, " tokens"]:
        """The same in rows that are padded to ``width``."""
        row = torch.arange(len(self)).repeat_interleave(torch.tensor(self.lengths))
        return self.positions + sent(row * width, self.device)

    def tokens(self, rows: Sequence[int]) -> Int[Tensor, " chosen"]:
        """Indices of the tokens of some rows, in the order of ``rows``."""
        return sent(torch.cat([torch.arange(self.borders[i], self.borders[i + 1]) for i in rows]), self.device)

    def only(self, rows: Sequence[int]) -> Ragged:
        """Some of the rows; the same ones are the same object, since every layer asks for them."""
        chosen = tuple(rows)
        if chosen not in self._parts:
            self._parts[chosen] = Ragged(tuple(self.lengths[i] for i in chosen), self.device)
        return self._parts[chosen]

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Ragged]:
        return {}

    def pad(self, flat: Tensor) -> Tensor:
        """[M, ...] as right-padded rows [R, L, ...], zeros where there is no token."""
        shape = (len(self), self.longest, *flat.shape[1:])
        if self.uniform:
            return flat.reshape(shape)
        return flat.new_zeros((shape[0] * shape[1], *shape[2:])).index_copy(0, self.place, flat).view(shape)

    def flat(self, padded: Tensor) -> Tensor:
        """Inverse of ``pad``."""
        rows = padded.flatten(0, 1)
        return rows if self.uniform else rows.index_select(0, self.place)

    def blocks(self, slack: float) -> list[tuple[slice | Tensor, Ragged]]:
        """The rows in blocks of like length, each with where its tokens are; made once, for all layers.

        A block's longest row is at most ``slack`` of the shortest (and 8 ``slack`` tokens) longer; 0: equally long.
        """
        if slack not in self._blocks:
            made: list[list[int]] = []
            for row in sorted(range(len(self)), key=self.lengths.__getitem__):
                if not made or self.lengths[row] > (1 + slack) * self.lengths[made[-1][0]] + 8 * slack:
                    made.append([])
                made[-1].append(row)
            self._blocks[slack] = [(self._where(block), self.only(block)) for block in made]
        return self._blocks[slack]

    def _where(self, rows: Sequence[int]) -> slice | Tensor:
        """Of the tokens of some rows: no copy is made of rows that lie one after the other."""
        first, last = rows[0], rows[-1]
        together = list(rows) == list(range(first, last + 1))
        return slice(self.borders[first], self.borders[last + 1]) if together else self.tokens(rows)

    @cached_property
    def _blocks(self) -> dict[float, list[tuple[slice | Tensor, Ragged]]]:
        return {}

    @cached_property
    def alike(self) -> tuple[list[tuple[slice | Tensor, Ragged]], Tensor]:
        """Blocks of rows of like length, the longest at most a quarter longer.

        And the index that brings the tokens of all blocks, one after the other, back into order.
        """
        blocks = self.blocks(0.25)
        every = torch.arange(self.borders[-1], device=self.device)
        return blocks, torch.cat([taken(every, where) for where, _ in blocks]).argsort()
