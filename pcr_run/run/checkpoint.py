"""Checkpoints: written whole or not at all, pruned, verified when loaded."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from pcr_run.errors import ConfigError, disk_full, is_disk_full

log = logging.getLogger(__name__)
STATE, MANIFEST = "state.pt", "manifest.json"


class HashingWriter(io.RawIOBase):
    """A binary file that knows the SHA-256 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and hash."""
        self.sha256.update(data)
        self.bytes += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error  # torch.save hides it behind an error of its own
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def place(directory: Path, step: int) -> tuple[Path, Path]:
    """Where the checkpoint of a step is, and where it is written."""
    final = directory / f"step-{step:06d}"
    return final, directory / f".{final.name}.tmp"


def save(
    directory: Path, step: int, state: dict[str, Any], keep: int, more: Callable[[Path], None] | None = None
) -> Path:
    """Write ``directory/step-<step>`` and prune all but the newest ``keep``.

    ``state`` may hold tensors and plain Python values. The global random states of torch, numpy and Python go along.
    ``more`` writes further files into the directory that it is given.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final, temporary = place(directory, step)
    if final.exists() and damage(final) is None:
        return final
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        if more is not None:
            more(temporary)
        files = {str(file.relative_to(temporary)): hashed(file) for file in sorted(temporary.rglob("*.*"))}
        with (temporary / STATE).open("wb") as file:
            writer = HashingWriter(file)
            try:
                torch.save({**state, "step": step, "random": random_state()}, writer)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise writer.error or error from error
            sync(file)
        with (temporary / MANIFEST).open("w") as manifest:
            line = {"step": step, "sha256": writer.sha256.hexdigest(), "bytes": writer.bytes}
            json.dump(line | ({"files": files} if files else {}), manifest)
            sync(manifest)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(final) from error
        raise
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in found(directory)[keep:]:
        shutil.rmtree(old)
    return final


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name; frozen ones are those of the base model."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def load_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Inverse of ``weights``; ValueError where the model trains others."""
    if weights(model).keys() != saved.keys():
        raise ValueError(f"the checkpoint's weights are not the model's: {min(weights(model).keys() ^ saved.keys())}")
    model.load_state_dict(saved, strict=False)


def load_newest(directory: Path) -> dict[str, Any] | None:
    """The state of the newest intact checkpoint, None where there is no checkpoint at all."""
    path = newest(directory)
    return None if path is None else load(path)


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint."""
    state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    return state


def newest(directory: Path) -> Path | None:
    """The newest intact checkpoint, None where there is none at all.

    A damaged one is named in the log and passed over; ConfigError when none is intact.
    """
    candidates = found(directory)
    for path in candidates:
        problem = damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s); going on from the one before", path, problem)
    if candidates:
        raise ConfigError(
            str(candidates[0]),
            "this checkpoint is damaged, and so is every other here; delete the run directory or choose another "
            "hydra.run.dir to start over",
        )
    return None


def found(directory: Path) -> list[Path]:
    """Checkpoints in a directory, newest first; unfinished ones are not among them."""
    return sorted(directory.glob("step-*"), reverse=True) if directory.is_dir() else []


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if its bytes are those that were written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, digest in {STATE: manifest["sha256"], **manifest.get("files", {})}.items():
            if hashed(path / name) != digest:
                return f"{name} does not match its checksum"
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def hashed(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def random_state() -> dict[str, Any]:
    """Global random states, as values that ``torch.load(weights_only=True)`` accepts."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of ``random_state``."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def sync(file: IO[Any]) -> None:
    """Have the file's bytes on disk before its directory gets its final name."""
    file.flush()
    os.fsync(file.fileno())
