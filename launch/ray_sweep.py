"""A sweep on a Ray cluster: each cell on GPUs of its own, again on another node where its node is lost.

    ray job submit --working-dir . -- python launch/ray_sweep.py cells.txt /shared/table scale=paper

``cells.txt`` has the overrides of one cell a line (see launch/slurm_array.sh); the directory must be on a disk that all
nodes see. Afterwards ``pcr-report /shared/table``. The same command again starts what is not complete.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import ray

GPUS = 1
"""Of each cell."""


@ray.remote(num_gpus=GPUS, max_retries=-1)
def cell(arguments: list[str]) -> int:
    """Run one cell; its exit code. Ray sets ``CUDA_VISIBLE_DEVICES``."""
    return subprocess.run(["pcr-run", f"launch.nproc={GPUS}", *arguments]).returncode


def main(cells: str, sweep: str, *common: str) -> int:
    """Run all cells; 1 where one of them did not end well."""
    lines = [shlex.split(line) for line in Path(cells).read_text().splitlines() if line.strip()]
    directory = f"hydra.run.dir={sweep}/${{run_name:}}"
    codes = ray.get([cell.remote([directory, *common, *line]) for line in lines])
    for code, line in zip(codes, lines, strict=True):
        print(f"{' '.join(line)}: exit code {code}")
    return int(any(codes))


if __name__ == "__main__":
    ray.init()
    sys.exit(main(*sys.argv[1:]))
