"""A model in one piece, seen as ``Shards`` are: nothing is gathered, summed or sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from pcr_run.distributed.shards import Shards


class Whole:
    """The methods of ``Shards`` on one rank that has everything."""

    spread = False
    loose: Collection[str] = ()

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.device = next(model.parameters()).device

    def rest(self) -> AbstractContextManager[None]:
        """All is there."""
        return nullcontext()

    def whole(self) -> AbstractContextManager[None]:
        """All is there."""
        return nullcontext()

    def parts(self) -> Iterator[dict[str, nn.Parameter]]:
        """All at once."""
        yield self.parameters

    @contextmanager
    def update(self, apart: Collection[str], _leave: Any) -> Iterator[None]:
        """Parameters ``apart`` get no gradient from autograd; the others' stay in their ``.grad``."""
        for name in apart:
            self.parameters[name].requires_grad_(False)
        try:
            yield
        finally:
            for name in apart:
                self.parameters[name].requires_grad_(True)

    def down(self, _blocks: Sequence[nn.Module] | None) -> AbstractContextManager[None]:
        """All is there."""
        return nullcontext()

    def scatter(self, _name: str, gradient: Tensor) -> Tensor:
        """The gradient as it is."""
        return gradient

    def give(self, name: str, gradient: Tensor) -> None:
        """Make ``gradient`` that of the parameter."""
        self.parameters[name].grad = gradient.to(self.parameters[name].dtype)

    def now(self, name: str) -> nn.Parameter:
        """The parameter."""
        return self.parameters[name]

    def over_ranks(self, sums: Tensor) -> Tensor:
        """There is one rank."""
        return sums


Weights = Whole | Shards
"""A model's weights, wherever they are."""
