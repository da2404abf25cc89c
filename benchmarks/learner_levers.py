"""Levers of the learner's speed, each of which can be switched off for a comparison (benchmarks/learner.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor

from pcr_run.learner import learner
from pcr_run.learner.batch import Minibatch
from pcr_run.learner.head import Head
from pcr_run.model import fused


def padded() -> AbstractContextManager[Any]:
    """Rows with padding; the learner then takes microbatches of so many rows too."""
    return patch.object(learner.packing, "enable", lambda model: False)


def twice() -> AbstractContextManager[Any]:
    """The head pulled through for each cotangent by itself."""
    pull = Head._pull

    def again(head: Head, at_logits: Tensor) -> Tensor:
        pull(head, at_logits)
        return pull(head, at_logits)

    return patch.object(Head, "_pull", again)


def uncast() -> AbstractContextManager[Any]:
    """Weights cast by autocast, product by product."""
    return patch.object(learner, "cast_once", lambda model: nullcontext())


def both() -> AbstractContextManager[Any]:
    """Two cotangents also where the advantage is 0."""
    of = Minibatch.of

    def informative(*arguments: Any) -> Minibatch:
        made = of(*arguments)
        return dataclasses.replace(made, informative=[True] * len(made.informative))

    return patch.object(Minibatch, "of", informative)


def eager() -> AbstractContextManager[Any]:
    """Softmax, log-probs and entropy as they stand."""
    return patch.object(fused, "on", lambda device, formula: formula)


OFF: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    f"no_{name}": switch
    for name, switch in {
        "packing": padded,
        "shared_pull": twice,
        "cast": uncast,
        "skipping": both,
        "fusion": eager,
    }.items()
}
"""What a learner's name may end with, behind a hyphen."""


@contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """Inside, these levers are off."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(OFF[name]())
        yield
