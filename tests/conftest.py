"""Shared fixtures; nothing here needs a network."""

import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors here are tiny: more threads only wait for each other

import pytest
import torch
from torch.overrides import TorchFunctionMode


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
