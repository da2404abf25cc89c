"""A process that samples as ``HFWorker`` does, from a copy of the weights.

``python -m pcr_run.rollout.sampler SOCKET``. It is asked through ``apart.py`` and answers as ``answer.py`` says. The
first message holds the arguments of ``Sampler``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pcr_run.data import Completion, Sampling
from pcr_run.rollout.answer import answer
from pcr_run.rollout.hf import HFWorker


class Sampler:
    """What the run may ask.

    ``model``: arguments of ``from_pretrained``; ``threads``: as many as the run has, since rounding depends on them;
    ``eos``, ``pad``, ``batch``: of ``HFWorker``.
    """

    def __init__(
        self, model: dict[str, Any], device: str, threads: int, eos: Sequence[int], pad: int, batch: int
    ) -> None:
        torch.set_num_threads(threads)
        loaded: Any = AutoModelForCausalLM.from_pretrained(**model)
        self.model = loaded.to(device).eval()
        self.worker = HFWorker(self.model, eos, pad, batch)

    @torch.no_grad()
    def load(self, file: str) -> None:
        """Take the weights from a file; they have the names of the model's parameters."""
        weights = load_file(file)
        for name, parameter in self.model.named_parameters():  # tied ones once
            parameter.copy_(weights[name])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """See ``RolloutWorker``."""
        return self.worker.generate(prompts, n, sampling, seed, numbers)


if __name__ == "__main__":
    answer(Connection(int(sys.argv[1])), lambda arguments: Sampler(**arguments))
