"""The number that training raises, and the limits for code that a model wrote."""

from __future__ import annotations

from dataclasses import dataclass

from pcr_run.right import COUNT, POSITIVE, SHARE, at_least, doc
from pcr_run.schema.questions import DTYPES


@dataclass
class RewardConfig:
    """The number that training raises (`reward=verifier|model`)."""

    name: str = doc("`verifier` (the task's own) or `model` (a sequence classifier)", right=("verifier", "model"))
    verifier: str = doc("which verifier", "${task.verifier}", "pcr_run.reward:VERIFIERS")
    workers: int | None = doc("processes that score; null = the number of cores", None, COUNT)
    seconds: float = doc("CPU seconds for one answer's check by `math`", 3.0, POSITIVE)
    unboxed: float = doc("`math`: part of the reward for a right last number outside a box, 0 to 1", 0.0, SHARE)
    partial: bool = doc("`sandbox`: the share of tests passed, instead of all or nothing", False)
    correctness: float = doc("weight of the verifier's value", 1.0, at_least(0))
    format: float = doc("weight of a format reward: 1 for a closed box or code block", 0.0, at_least(0))
    model: float = doc("weight of the reward model's score", 1.0, at_least(0))
    overlong: int = doc(
        "tokens before the limit in which a response's reward falls, by 1 in all (DAPO); 0 = none", 0, at_least(0)
    )
    max_failed: float = doc("stop the run when the share of `error` verdicts in one step exceeds this", 0.1, SHARE)
    max_unparsed: float = doc("stop the run when the share of `unparsed` verdicts in one step exceeds this", 1.0, SHARE)
    path: str | None = doc("`model`: local directory or hub id of the reward model", None)
    batch: int = doc("`model`: responses scored at once", 32, COUNT)
    dtype: str = doc("`model`: dtype of its weights", "float32", DTYPES)


@dataclass
class SandboxConfig:
    """Limits for code that a model wrote."""

    isolation: str = doc(
        "`bubblewrap`, `landlock` or `auto`: the first of them that works here",
        "auto",
        ("auto", "bubblewrap", "landlock"),
    )
    seconds: float = doc("CPU seconds for one program with all its tests", 2.0, POSITIVE)
    wall_seconds: float = doc("wall-clock backstop, verdict `stalled`", 10.0, POSITIVE)
    memory_mb: int = doc("address space, MiB", 512, COUNT)
    threads: bool = doc("let programs start threads, 64 at once (never processes)", True)
    file_mb: int = doc("largest file, MiB; 0 = no file can be written", 1, at_least(0))
    output_kb: int = doc("standard output beyond the expected one, KiB", 64, COUNT)
