"""The learner's state into a checkpoint and back: as it is, or in shards that any number of ranks can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from pcr_run.distributed.ranks import everyones, first, together
from pcr_run.learner.learner import Learner
from pcr_run.run import checkpoint

SHARDS = "shards"
SHARDED = ("optimizer", "reference")
"""What of the learner's state is in shards where the model is."""
SOME = StateDictOptions(strict=False)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
SOME_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
TRAINED_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def save(directory: Path, step: int, learner: Learner, ahead: dict[str, Any], keep: int) -> None:
    """A checkpoint of ``step``; one rank writes all but the shards, which each writes itself.

    ``ahead``: what was sampled ahead by the one process that may do so.
    """
    if not together():
        state = {"model": checkpoint.weights(learner.model), "learner": learner.state_dict(), "ahead": ahead}
        checkpoint.save(directory, step, state, keep)
        return
    final, temporary = checkpoint.place(directory, step)
    if everyones(first() and final.exists() and checkpoint.damage(final) is None)[0]:
        return
    rest = {key: value for key, value in learner.state_dict().items() if key not in SHARDED}
    if first():
        checkpoint.save(directory, step, {"learner": rest}, keep, lambda where: _write(where / SHARDS, learner))
    else:
        _write(temporary / SHARDS, learner)
    dist.barrier()


def restore(learner: Learner, path: Path) -> dict[str, Any]:
    """Inverse of ``save``, whatever number of ranks saved and whatever number loads; returns what was ``ahead``."""
    state = checkpoint.load(path)
    if (path / SHARDS).is_dir():
        _read(path / SHARDS, learner)
    elif together():
        _spread(learner, state["model"], {key: state["learner"].pop(key, {}) for key in SHARDED})
    else:
        checkpoint.load_weights(learner.model, state["model"])
    learner.load_state_dict(state["learner"])
    checkpoint.restore_random_state(state["random"])
    return state.get("ahead", {})


def whole_weights(model: Any, frozen: bool = True) -> dict[str, Any]:
    """Arguments for ``save_pretrained``: the weights of a model in shards, on the first rank; every rank must call.

    ``frozen``: those that are not trained too.
    """
    if not together():
        return {}
    once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}  # tied ones have one name
    found = get_model_state_dict(model, options=WHOLE if frozen else TRAINED_WHOLE)
    return {"state_dict": {name: value for name, value in found.items() if name in once}}


def _write(where: Path, learner: Learner) -> None:
    dist.barrier()  # the directory is there
    try:
        # torch makes the optimizer's state up where there is none yet, with a step that counts.
        dcp.save(_shards(learner, bool(learner.optimizer.state)), checkpoint_id=where)
    except CheckpointException as error:
        raise next((each for each, _ in error.failures.values() if isinstance(each, OSError)), error) from error


def _shards(learner: Learner, optimizer: bool) -> dict[str, Any]:
    trained, weights = checkpoint.weights(learner.model), get_model_state_dict(learner.model)
    found: dict[str, Any] = {"model": {name: weight for name, weight in weights.items() if name in trained}}
    if optimizer:
        found["optimizer"] = get_optimizer_state_dict(learner.model, learner.optimizer)
    if learner.frozen is not None and learner.frozen.kept:
        found["reference"] = get_model_state_dict(learner.frozen.model)
    return found


def _read(where: Path, learner: Learner) -> None:
    """What ``_write`` wrote."""
    there = dcp.FileSystemReader(where).read_metadata().state_dict_metadata
    shards = _shards(learner, any(key.startswith("optimizer.") for key in there))
    dcp.load(shards, checkpoint_id=where, no_dist=not together())
    set_model_state_dict(learner.model, shards["model"], options=SOME)
    if "optimizer" in shards:
        set_optimizer_state_dict(learner.model, learner.optimizer, shards["optimizer"])
    if "reference" in shards:
        assert learner.frozen is not None
        set_model_state_dict(learner.frozen.model, shards["reference"])


def _spread(learner: Learner, weights: dict[str, Any], rest: dict[str, Any]) -> None:
    """What one process saved, into shards."""
    set_model_state_dict(learner.model, weights, options=SOME_WHOLE)
    if optimizer := _named(learner, rest["optimizer"]):
        set_optimizer_state_dict(learner.model, learner.optimizer, optimizer, options=WHOLE)
    if rest["reference"]:
        assert learner.frozen is not None
        set_model_state_dict(learner.frozen.model, rest["reference"], options=WHOLE)


def _named(learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the names of its parameters; empty where it has none."""
    if not state["state"]:
        return {}
    names = [name for name, parameter in learner.model.named_parameters() if parameter.requires_grad]
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[i]: value for i, value in state["state"].items()}, "param_groups": groups}
