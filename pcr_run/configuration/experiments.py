"""Experiments of a sweep: which runs each of them needs, and the file that tells the report of it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pcr_run.configuration.compose import no_such, some
from pcr_run.errors import ConfigError
from pcr_run.records import jsonl
from pcr_run.schema import flat
from pcr_run.schema.experiment import DIRECTIONS

DIRECTORY = "experiments"
"""Beside the cells of a sweep: one JSON file an experiment."""


def command_lines(composed: DictConfig, expand: Callable[[list[str]], Sequence[Sequence[str]]]) -> dict[str, list[Any]]:
    """Overrides of every run of every experiment at the composed scale, by the experiment's name.

    ``expand`` makes the combinations of a command line. Raises ``ConfigError`` for an experiment without a grid for
    the scale and for a claim that nothing can decide.
    """
    found: dict[str, list[Any]] = {}
    for name, experiment in composed.experiments.items():
        key = f"experiments.{name}"
        if composed.scale not in experiment.grids:
            right = some(experiment.grids) or "none"
            raise ConfigError(f"{key}.grids", f"there is no grid for scale={composed.scale}; there are: {right}")
        for claim, options in experiment.claims.items():
            if options.direction not in DIRECTIONS:
                raise ConfigError(f"{key}.claims.{claim}.direction", no_such(options.direction, list(DIRECTIONS)))
            if options.direction == "equal" and not options.interest > 0:
                problem = f"{options.interest} leaves no room for 'equal'; a number above 0"
                raise ConfigError(f"{key}.claims.{claim}.interest", problem)
        lines = [shlex.split(line) for line in experiment.grids[composed.scale]]
        found[str(name)] = [tuple(overrides) for line in lines for overrides in expand(line)]
    return found


def check_plain(own: DictConfig, plain: DictConfig, name: str) -> None:
    """Refuse options that the primary configuration ``name`` of a sweep sets: its runs are plain ones without it."""
    left, right = (dict(flat(cast(dict[str, Any], OmegaConf.to_container(each)))) for each in (own, plain))
    for key in {**left, **right}:
        same = (key in left, left.get(key)) == (key in right, right.get(key))
        if not same and key.partition(".")[0] not in ("hydra", "experiments"):
            problem = f"{left.get(key)!r} is set in {name}.yaml, which the runs of an experiment do not read"
            place = f"{'on' if key == 'scale' else 'in each line of its grids, or on'} the command line"
            raise ConfigError(key, f"{problem}; right: {place}")


def write(sweep: Path, experiments: DictConfig, cells: Mapping[str, Sequence[str]], scale: str, begun: bool) -> None:
    """One file an experiment: what it declares and the directories of its ``cells``, in order.

    Its claims are fixed before there is data: a digest of them is written down with the time. When they change after
    a run of the experiment has ``begun``, the new digest is added to the old ones and the report says so.
    """
    directory = sweep / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for name in map(str, experiments):
        path = directory / f"{name}.json"
        declared: Any = OmegaConf.to_container(experiments[name], resolve=True)
        grids = declared.pop("grids")
        known = json.loads(path.read_text()) if path.exists() else {}
        digest = hashlib.sha256(json.dumps(declared["claims"], sort_keys=True).encode()).hexdigest()
        fixed = known.get("fixed", []) if begun else []
        if not fixed or fixed[-1]["sha256"] != digest:
            fixed.append({"sha256": digest, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        record = {"name": name, "scale": scale, **declared, "grids": grids[scale], "cells": list(cells[name])}
        record["fixed"] = fixed
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(jsonl.finite(record), indent=1) + "\n")
        temporary.replace(path)
