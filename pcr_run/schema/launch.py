"""How many processes compute a run, and for how long they wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from pcr_run.right import COUNT, POSITIVE, doc


@dataclass
class LaunchConfig:
    """Processes of the learner, one a GPU."""

    nproc: int | None = doc("processes, one a GPU; null = one for each visible GPU", 1, COUNT)
    timeout: float = doc("seconds after which a process that waits for another ends the run", 1800.0, POSITIVE)
