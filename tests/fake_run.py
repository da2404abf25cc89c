"""A run that takes no time and does as the environment says: stands in for ``pcr_run.run``.

``FAKE_RUN`` maps names of resolvers to what their run does. As ``sitecustomize`` it also works in child processes.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any


def run(cfg: Any, directory: Path) -> dict[str, Any]:
    from pcr_run.errors import ConfigError, RunError
    from pcr_run.records import result

    with (directory / "starts").open("a") as starts:
        starts.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ.get('OMP_NUM_THREADS')} {os.getpid()}\n")
    if os.environ.get("RANK", "0") != "0":  # the first rank writes
        return {}
    found = result.read(directory)
    if found.get("status") == "complete":
        return found
    match json.loads(os.environ.get("FAKE_RUN", "{}")).get(cfg.resolver.name, "complete"):
        case "complete":
            (directory / "metrics.jsonl").write_text(
                json.dumps({"step": 1, "conflict_rate": 0.5, "alpha": 0.25}) + "\n"
            )
            result.write(directory, outcome(cfg))
            return result.read(directory)
        case "bad data":
            raise ConfigError("task.data.path", "empty; right is a file with rows")
        case "failed":
            raise RunError("3 updates in a row were not finite")
        case "bug":
            raise ZeroDivisionError("by nothing")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", str(directory / "metrics.jsonl"))
        case "quota":
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "slow":
            (directory / "metrics.jsonl").write_text("")
            time.sleep(60)
        case "waiting":  # for a file in the sweep's directory
            while not (directory.parent / "go on").exists():
                time.sleep(0.02)
            result.write(directory, outcome(cfg))
            return result.read(directory)
    raise AssertionError("unknown behaviour")


def outcome(cfg: Any, before: float = 0.25, after: float = 0.75) -> dict[str, Any]:
    def score(per_question: list[float]) -> dict[str, Any]:
        mean = sum(per_question) / len(per_question)
        return {"pass@1": mean, "stderr": 0.1, "questions": 4, "n": 4, "temperature": 1.0, "per_question": per_question}

    seed = cfg.seed / 100
    scores = {
        "before": score([before, before, before + 0.25, before - 0.25]),
        "after": score([after + seed, after, after + 0.25, after - 0.25 + seed]),
    }
    change = scores["after"]["pass@1"] - scores["before"]["pass@1"]
    return {
        "status": "complete",
        "reason": None,
        "task": cfg.task.name,
        "resolver": cfg.resolver.name,
        "seed": cfg.seed,
        "steps": cfg.steps,
        "scores": {cfg.task.name: {**scores, "difference": change, "stderr": 0.05}},
        "perplexity": {"before": 2.0, "after": 2.5},
        "seconds": {"rollout": 1.0, "learner": 2.0},
    }


def install() -> None:
    """Take the place of the real module, here."""
    module = types.ModuleType("pcr_run.run.run")
    module.run = run  # type: ignore[attr-defined]
    sys.modules["pcr_run.run.run"] = module


if __name__ == "sitecustomize":
    install()
