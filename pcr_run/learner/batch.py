"""A step's responses, and how they are dealt out to microbatches: whole rows, groups together, within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcr_run.learner import objective
from pcr_run.learner.surrogate import BY_RESPONSE, even
from pcr_run.model.packing import Tokens
from pcr_run.ragged import Ragged, sent
from pcr_run.schema import LearnerConfig


@dataclass(frozen=True)
class Batch:
    """One step's responses, N = P * G rows, prompt-major, right-padded to T.

    ``ids`` [N, T] prompt and response tokens; ``mask`` [N, T] true where a token was sampled and counts; ``advantages``
    [N]; ``kl`` [N] 1 where the row's KL counts, else 0; ``group`` G; ``drawn`` [N, T] log-probs of the sampled tokens
    under the policy that the rollout worker sampled from, 0 elsewhere.
    """

    ids: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    drawn: Float[Tensor, "rows length"]
    advantages: Float[Tensor, " rows"]
    kl: Float[Tensor, " rows"]
    group: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row up to its last one that counts, at least 1: what follows changes nothing."""
        ends = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return torch.where(self.mask, ends, 1).amax(1).tolist()


def cut(batch: Batch | Minibatch, rows: list[int], lengths: Sequence[int]) -> tuple[Tokens, Bool[Tensor, " tokens"]]:
    """Some rows of a batch without what follows their ``lengths``, and their mask; of no rows, a token that is none."""
    if not rows:
        nothing = torch.zeros(1, dtype=torch.long, device=batch.ids.device)
        return Tokens(nothing, Ragged((1,), nothing.device)), nothing.bool()
    chosen = sent(torch.tensor(rows), batch.ids.device)
    tokens = Tokens.of(batch.ids[chosen], [lengths[i] for i in rows])
    return tokens, batch.mask[chosen].flatten()[tokens.rows.within(batch.mask.shape[1])]


@dataclass(frozen=True)
class Rows:
    """Some rows of a minibatch without padding.

    ``sampled``: indices of the tokens that count, in ``tokens``; ``counts``: how many in each row. The rest stands at
    these: both losses' token weights, advantages, log-probs by the rollout worker (``drawn``) and by the learner's
    policy of that time (``old``, None where it is the present one); and their responses' ``excess`` of log-ratio to the
    reference over their groups' means, where ``learner.kl=variance``. ``informative``: some row adds to L_pla: its
    advantage is not 0, nor are all of its weights.
    """

    tokens: Tokens
    sampled: Int[Tensor, " sampled"]
    counts: Int[Tensor, " rows"]
    advantage: Float[Tensor, " sampled"]
    weight: Float[Tensor, " sampled"]
    kl_weight: Float[Tensor, " sampled"]
    drawn: Float[Tensor, " sampled"]
    old: Float[Tensor, " sampled"] | None
    excess: Float[Tensor, " sampled"] | None
    informative: bool


@dataclass(frozen=True)
class Microbatch:
    """Indices of rows of a minibatch, maybe none, and whether one of them is informative (see ``Rows``).

    ``ends``: where all ranks work on one group at a time, whether this is the group's last.
    """

    rows: list[int]
    informative: bool
    ends: bool | None = None


@dataclass(frozen=True)
class Minibatch:
    """The rows of one optimizer step: whole groups, with both losses' token weights [n, T] normalised over them.

    ``excess`` [n]: see ``Rows``.
    """

    ids: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    drawn: Float[Tensor, "rows length"]
    advantages: Float[Tensor, " rows"]
    weight: Float[Tensor, "rows length"]
    kl_weight: Float[Tensor, "rows length"]
    old: Float[Tensor, "rows length"] | None
    lengths: list[int]
    informative: list[bool]
    group: int
    excess: Float[Tensor, " rows"] | None = None

    @classmethod
    def of(
        cls,
        batch: Batch,
        part: slice,
        lengths: list[int],
        importance: Float[Tensor, "rows length"],
        old: Float[Tensor, "rows length"] | None,
        cfg: LearnerConfig,
        max_new_tokens: int,
    ) -> Minibatch:
        """Rows ``part`` of a batch; ``importance`` weighs the reward's part."""
        mask, advantages = batch.mask[part], batch.advantages[part]
        weight = objective.token_weights(mask, cfg.aggregation, max_new_tokens)
        rewarded = weight * importance[part]
        return cls(
            batch.ids[part],
            mask,
            batch.drawn[part],
            advantages,
            even(rewarded, mask) if cfg.surrogate in BY_RESPONSE else rewarded,
            weight * batch.kl[part, None],
            # Before the only update the policy is still that of ``old``: a ratio of the two would be rounding.
            None if old is None or cfg.epochs * cfg.minibatches == 1 else old[part],
            lengths,
            ((advantages != 0) & (rewarded != 0).any(1)).tolist(),
            batch.group,
        )

    def __getitem__(self, part: Microbatch) -> Rows:
        tokens, mask = cut(self, part.rows, self.lengths)
        chosen = sent(torch.tensor(part.rows, dtype=torch.long), mask.device)
        counts = self.mask[chosen]
        row, column = counts.nonzero(as_tuple=True)  # once: it makes the host wait for the device
        row = chosen[row]

        def at(values: Tensor) -> Tensor:
            return values[row, column]

        return Rows(
            tokens=tokens,
            sampled=mask.nonzero().flatten(),
            counts=counts.sum(1),
            advantage=self.advantages[row],
            weight=at(self.weight),
            kl_weight=at(self.kl_weight),
            drawn=at(self.drawn),
            old=None if self.old is None else at(self.old),
            excess=None if self.excess is None else self.excess[row],
            informative=part.informative,
        )


def deal(
    lengths: Sequence[int],
    informative: Sequence[bool],
    together: int,
    *,
    rows: int,
    tokens: int | None,
    most: int,
    packed: bool,
) -> Iterator[Microbatch]:
    """Every row once.

    Rows come in blocks of ``together`` (a group), which stay whole where they fit; blocks without any informative row
    are dealt apart, since they cost less. A microbatch has at most ``most`` rows and at most ``tokens`` tokens (one row
    may have more), padding among them unless rows are ``packed``; without ``tokens`` it has ``rows`` rows.
    """
    blocks = [list(range(start, start + together)) for start in range(0, len(lengths), together)]
    for kind in (True, False):
        mine = [block for block in blocks if any(informative[i] for i in block) is kind]
        if tokens is None:
            size, order = min(rows, most), [i for block in mine for i in block]
            parts = [order[start : start + size] for start in range(0, len(order), size)]
        else:
            parts = list(_filled(mine, lengths, tokens, most, packed))
        yield from (Microbatch(part, kind) for part in parts)


def _filled(
    blocks: Sequence[list[int]], lengths: Sequence[int], budget: int, most: int, packed: bool
) -> Iterator[list[int]]:
    """Blocks of like length together, as many as fit; a block that does not fit is cut between its rows."""

    def fits(part: Sequence[int]) -> bool:
        size = [lengths[i] for i in part]
        return len(part) <= most and (sum(size) if packed else len(size) * max(size)) <= budget

    part: list[int] = []
    for block in sorted(blocks, key=lambda block: -max(lengths[i] for i in block)):
        if part and not fits([*part, *block]):
            yield part
            part = []
        if fits(block):
            part = [*part, *block]
            continue
        for row in sorted(block, key=lambda i: -lengths[i]):
            if part and not fits([*part, row]):
                yield part
                part = []
            part = [*part, row]
        yield part  # what is left of a block that was cut stays alone: the next one is to be whole
        part = []
    if part:
        yield part
