"""Shared fixtures; nothing here needs a network."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors here are tiny: more threads only wait for each other

from jaxtyping import install_import_hook
from shapes import MODULES

install_import_hook(MODULES, "shapes.check")  # before any of them is imported

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from pcr_run.model.tiny import make_tokenizer
from pcr_run.reward import workers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where tests compute that can do so on either."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of whole runs come first: a worker that began them last would end long after the others."""
    items.sort(key=lambda item: item.path.name not in ("test_run.py", "test_sweep.py"))


class KeepDouble(TorchFunctionMode):
    """Refuses casts from float64 to float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        double = args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if double and (func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args)):
            return args[0]
        if double and kwargs.get("dtype") == torch.float32:
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


@pytest.fixture
def float64_throughout() -> Iterator[None]:
    """Norms and routers of transformers always compute in float32; here they stay in float64."""
    with KeepDouble():
        yield


@pytest.fixture(scope="session", autouse=True)
def measured_workers() -> Iterator[None]:
    """Where coverage is measured, it is in reward workers too: they may see its variable and are given time to save.

    The sandboxed programs that they start keep their environment of five fixed variables.
    """
    variable = "COVERAGE_PROCESS_CONFIG"
    if variable not in os.environ:
        yield
        return
    close = workers.Pool.close

    def let_end(pool: workers.Pool) -> None:
        for worker in pool._idle:
            worker.process.stdin.close()
            worker.process.wait(10)
        close(pool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "ENVIRONMENT", (*workers.ENVIRONMENT, variable))
        patch.setattr(workers.Pool, "close", let_end)
        yield


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy with random weights and the embedded model's tokenizer, in Hugging Face layout."""
    return save_random(Qwen2ForCausalLM, tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with random weights: every response gets a reward of its own."""
    return save_random(Qwen2ForSequenceClassification, tmp_path_factory.mktemp("models") / "scorer", num_labels=1)


def save_random(kind: type, directory: Path, **more: int | float | bool) -> Path:
    """A model with random weights; ``more`` goes before the defaults of its shape."""
    tokenizer = make_tokenizer()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **(shape | more),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
