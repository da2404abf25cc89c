"""What claims say of a run beside its measures: one number from its records; and Theorem 5.1 by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from pcr_run.report.cells import Cell
from pcr_run.report.measures import column, mean, number


def cos_mlp_deep(cell: Cell) -> float:
    """Mean cos(g_pla, g_sta) of the MLPs in the deeper half of the layers, over all measured steps."""
    layers = [line for line in cell.layers if line.get("module") == "mlp" and isinstance(line.get("layer"), int)]
    half = max((line["layer"] for line in layers), default=0) / 2
    return mean(number(line.get("cos_pla_sta")) for line in layers if line["layer"] > half)


def alpha_mlp_over_attention(cell: Cell) -> float:
    """Mean alpha of MLP groups minus that of attention groups, over the steps at which both were measured."""
    by_step: dict[tuple[Any, str], list[float]] = {}
    for line in cell.layers:
        by_step.setdefault((line.get("step"), str(line.get("module"))), []).append(number(line.get("alpha")))
    steps = {step for step, module in by_step if module == "mlp"} & {
        s for s, module in by_step if module == "attention"
    }
    return mean(mean(by_step[step, "mlp"]) - mean(by_step[step, "attention"]) for step in steps)


def roughness(cell: Cell) -> float:
    """Mean absolute change of the logarithm of the gradient norm from step to step."""
    norms = [value for value in column(cell, "grad_norm") if value > 0]
    return mean(abs(math.log(after / before)) for before, after in pairwise(norms))


def share_against_stability(cell: Cell) -> float:
    """Share of the groups and steps that the rule acted on in which the update points against g_sta."""
    own = str(cell.config.get("resolver.modules"))
    lines = [line for line in cell.layers if own == "all" or line.get("module") == own]
    values = [value for line in lines if math.isfinite(value := number(line.get("cos_update_sta")))]
    return mean(float(value < 0) for value in values)


TRAITS: dict[str, Callable[[Cell], float]] = {
    "cos_mlp_deep": cos_mlp_deep,
    "alpha_mlp_over_attention": alpha_mlp_over_attention,
    "roughness": roughness,
    "share_against_stability": share_against_stability,
}


def theorem_5_1(draws: int, samples: int = 100_000) -> list[float]:
    """By how much the simulated risk at PCR's alpha is below the better of the sum's and the projection's, relatively.

    z* ~ N(0, s2), z_obs = z* + N(0, p2), the estimator (1 - alpha) z_obs, alpha = p2 / (p2 + s2) (Theorem 5.1), for
    p2 / s2 of 1/4, 1 and 4. One number a draw.
    """
    found = []
    for draw in range(draws):
        random = np.random.default_rng(draw)
        gains = []
        for ratio in (0.25, 1.0, 4.0):
            true = random.standard_normal(samples)
            seen = true + math.sqrt(ratio) * random.standard_normal(samples)
            risk = {alpha: np.mean(((1 - alpha) * seen - true) ** 2) for alpha in (0.0, ratio / (1 + ratio), 1.0)}
            gains.append(1 - risk[ratio / (1 + ratio)] / min(risk[0.0], risk[1.0]))
        found.append(float(np.mean(gains)))
    return found
