"""Ranks on this machine: processes of a gloo group, forked from one that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("torch", "transformers", "torch.distributed.fsdp", "peft"),
        *("pcr_run.learner.learner", "pcr_run.rollout.source", "pcr_run.run.state"),
    ]
)


def together(count: int, directory: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` gives on each of ``count`` ranks; ``directory`` is empty."""
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    ranks = [
        SERVER.Process(target=_member, args=(rank, count, str(directory), work, arguments), daemon=True)
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * count, codes
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _member(rank: int, count: int, directory: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in here.items()})
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=count)
    torch.save(work(*arguments), f"{directory}/{rank}.pt")
    dist.destroy_process_group()
