"""What the engine's worker processes can do beside vLLM's own (``worker_extension_cls``): take weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BUSY = 0.02
"""Seconds after a request during which a worker on a CPU looks out for the next one without a pause; vLLM's own second
takes a core from the learner's threads just when they begin. Between two tokens it waits a few milliseconds."""


class Weights:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def load_from(self, directory: str) -> None:
        """Replace all weights by those of ``directory``'s safetensors files (checkpoint names, any dtype)."""
        import torch
        from safetensors import safe_open

        def tensors() -> Any:
            for file in sorted(Path(directory).glob("*.safetensors")):
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  (no mapping)
                        yield name, opened.get_tensor(name)

        with torch.no_grad():
            self.model_runner.reload_weights(weights_iterator=tensors())
            repack_tied_heads(self.model_runner.get_model())


def repack_tied_heads(model: Any) -> None:
    """Pack an output head that shares the embedding's weight once more.

    On CPU vLLM multiplies with a packed copy, made when a layer's weights were loaded. A tied head has none to load, so
    it keeps the copy of the first checkpoint and samples from logits of stale weights (only a warning is logged).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def rest_soon() -> None:
    """Make ``BUSY`` the time for which this process's queues, which are made later, wait by spinning."""
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        SpinCondition.__init__.__defaults__ = (BUSY,)  # its only default; vLLM has no option for it


rest_soon()  # a worker imports this file before it makes its queues
