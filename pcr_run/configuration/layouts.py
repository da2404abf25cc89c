"""A table of layouts: ``python -m pcr_run.configuration.layouts [override ...]`` (docs/scale.md shows some).

The overrides are those of ``pcr-run``. Memory is that of ``dry_run``: the learner's, by formula.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra

from pcr_run.configuration import compose
from pcr_run.configuration.memory import on_gpu, on_host, parts
from pcr_run.errors import ConfigError
from pcr_run.model import card

GPUS = (1, 2, 4, 8)


def render(overrides: Sequence[str]) -> str:
    """GB on each GPU, by the number of GPUs, without and with ``launch.offload``."""
    compose.register()
    with hydra.initialize_config_module("pcr_run.conf", version_base="1.3"):
        cfg = compose.to_config(hydra.compose("config", list(overrides)))
    about = card.read(cfg.model)
    rows = ["| GPUs | GB on each | with `launch.offload` | and GB of CPU memory |", "|---|---|---|---|"]
    for ranks in GPUS:
        here, there = (parts(cfg, about, ranks, offload) for offload in (False, True))
        if here is None or there is None:
            raise ConfigError("model.path", f"{cfg.model.path}: its shape is not known before its files are here")
        numbers = (on_gpu(here), on_gpu(there), on_host(there, ranks))
        rows.append(f"| {ranks} | " + " | ".join(f"{number / 1e9:.0f}" for number in numbers) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(render(sys.argv[1:]))
    except ConfigError as error:
        sys.exit(f"layouts: {error}")
