"""Processes that share one run."""

from __future__ import annotations

from dataclasses import dataclass

from pcr_run.right import COUNT, Right, doc

SECONDS = Right(lambda value: 0 < value <= 1e9, "a number above 0, at most 1e9")
"""What torch can wait for; longer ones are more than its clock counts."""


@dataclass
class LaunchConfig:
    """Processes of one run."""

    nproc: int = doc("processes that share the model, each with a GPU of its own (FSDP2)", 1, COUNT)
    offload: bool = doc(
        "keep weights, gradients, moments and reference in CPU memory; a GPU gets a layer at a time (FSDP2)", False
    )
    timeout: float = doc("seconds that a process waits for another before the run ends", 1800.0, SECONDS)
