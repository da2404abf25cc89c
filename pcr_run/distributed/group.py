"""From a process that torchrun or ``launch.nproc`` started to a rank of a group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from pcr_run.distributed.launch import is_rank
from pcr_run.errors import ConfigError, RunError


@contextmanager
def joined(device: str, timeout: float) -> Iterator[None]:
    """Inside, this process is a rank, where it was started as one; gloo on a CPU, NCCL between GPUs.

    ``device``: as configured, ``auto``, ``cpu`` or ``cuda``; the rank's own GPU becomes the current one. ``RunError``
    where another rank ends, or lets this one wait longer than ``timeout`` seconds.
    """
    if not is_rank():
        yield
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        number = int(os.environ["LOCAL_RANK"])
        if number >= torch.cuda.device_count():
            raise ConfigError("launch.nproc", f"right: at most {torch.cuda.device_count()}, the number of GPUs here")
        torch.cuda.set_device(number)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        if isinstance(error, RunError) or not _of_communication(error):
            raise
        late = "timed out" in str(error).lower()
        what = f"let it wait for more than launch.timeout={timeout:g} seconds" if late else "is gone"
        raise RunError(f"rank {os.environ['RANK']}: another rank {what}; {str(error).splitlines()[0]}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _of_communication(error: RuntimeError) -> bool:
    """gloo has no error class of its own."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "peer", "NCCL"))
