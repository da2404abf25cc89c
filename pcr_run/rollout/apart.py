"""Sampling with transformers' ``generate`` in a process of its own, while the run's own process does something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from pcr_run.data import Completion, Sampling
from pcr_run.errors import RunError
from pcr_run.model import lora
from pcr_run.rollout.engine import Engine, EngineDeadError, EngineError, shared_directory
from pcr_run.schema import Config


class ApartWorker:
    """Samples from a copy of ``model``'s weights, which ``synced`` brings up to date; the bits are ``HFWorker``'s.

    ``eos``, ``pad``: see ``HFWorker``; ``directory``: of the run, where the process's output goes (``engine.log``).
    With ``rollout.gpus`` the process has these GPUs and uses the first of them.
    """

    def __init__(
        self,
        cfg: Config,
        model: PreTrainedModel,
        eos: Sequence[int],
        pad: int,
        directory: Path,
        status: Callable[[str], None],
    ) -> None:
        self.model, self.log = model, directory / "engine.log"
        weights = shared_directory(sum(p.numel() * p.element_size() for p in model.parameters()))
        lora.save_merged(model, weights)
        self.file = weights / "now.safetensors"
        loaded = {
            "pretrained_model_name_or_path": str(weights),
            "dtype": cfg.model.dtype,
            "attn_implementation": cfg.model.attention,
            "trust_remote_code": cfg.model.trust_remote_code,
        }
        self.engine = Engine(
            {
                "model": loaded,
                "device": model.device.type,
                "threads": torch.get_num_threads(),
                "eos": list(eos),
                "pad": pad,
                "batch": cfg.rollout.batch,
            },
            weights,
            self.log,
            {} if cfg.rollout.gpus is None else {"CUDA_VISIBLE_DEVICES": cfg.rollout.gpus},
            seconds=cfg.rollout.start_seconds,
            status=status,
            module="pcr_run.rollout.sampler",
            name="the process that samples",
        )

    @contextlib.contextmanager
    def synced(self, step: int) -> Iterator[dict[str, float]]:
        """The process samples from the learner's weights as they are now."""
        weights = lora.base(self.model, {name: p.detach() for name, p in self.model.named_parameters()})
        save_file({name: w.cpu().contiguous() for name, w in lora.merged(self.model, weights)}, self.file)
        with self._said():
            self.engine.ask("load", str(self.file))
        yield {}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """See ``HFWorker``."""
        with self._said():
            yield from self.engine.stream("generate", prompts, n, sampling, seed, numbers)

    def close(self) -> None:
        """End the process."""
        self.engine.close()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """What the process cannot do, and its death, as the errors that end a run."""
        try:
            yield
        except EngineDeadError as death:
            raise RunError(f"the process that samples is gone ({death}); see {self.log}") from death
        except EngineError as error:
            raise RunError(f"the process that samples: {error}; see {self.log}") from error
