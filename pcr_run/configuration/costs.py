"""What a sweep costs, by formula from speeds that the configuration states (``throughput``): hours, memory, disk."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pcr_run.configuration.check.batch import measures
from pcr_run.configuration.memory import BYTES, total
from pcr_run.model import card
from pcr_run.schema import Config, evaluation_steps

QUESTIONS = 128
"""Held-out questions of a task whose size is not known before it is loaded."""


def costs(cfgs: Sequence[Config], parallel: int = 1) -> list[tuple[str, str]]:
    """(what, how much) for runs of which ``parallel`` go on at a time."""
    rows = [("runs", f"{len(cfgs)}")]
    hours = [each for cfg in cfgs if (each := device_hours(cfg)) is not None]
    if len(hours) == len(cfgs):
        assumed = cfgs[0].throughput
        rows.append(
            (
                "device hours",
                f"{sum(hours):,.1f}, {sum(hours) / parallel:,.1f} with {parallel} at a time (assumed: "
                f"{assumed.sampled:,.0f} tokens/s sampled, {assumed.trained:,.0f} trained)",
            )
        )
    else:
        rows.append(("device hours", "not known: throughput.sampled and throughput.trained say how fast a device is"))
    needs = [(each, cfg) for cfg in cfgs if (each := total(cfg, card.read(cfg.model))) is not None]
    if needs:
        most, cfg = max(needs, key=lambda pair: pair[0])
        rows.append(("memory", f"{most / 1e9:.2f} GB for the learner at most ({cfg.model.path or cfg.model.builtin})"))
    if sizes := [size for cfg in cfgs if (size := parameters(cfg)) is not None]:
        # final/ and, while a run goes on, its checkpoints: weights and two moments each
        kept = sum(size * BYTES.get(cfgs[0].model.dtype, 4) for size in sizes)
        going = parallel * max(sizes) * BYTES.get(cfgs[0].model.dtype, 4) * 3 * (cfgs[0].checkpoint.keep + 1)
        rows.append(("disk", f"{kept / 1e9:.2f} GB of trained models, {going / 1e9:.2f} GB of checkpoints at a time"))
    return rows


def device_hours(cfg: Config) -> float | None:
    """Hours of one device for one run; None where no speed is stated.

    Sampled tokens of training and evaluations, and trained tokens (prompts at their longest are not counted: the
    shares of a batch that they are differ too much), each divided by its speed and scaled to the model's size.
    """
    speed, rollout = cfg.throughput, cfg.rollout
    if speed.sampled is None or speed.trained is None:
        return None
    size = parameters(cfg)
    slower = size / speed.parameters if size and speed.parameters else 1.0
    tokens = cfg.steps * rollout.prompts * rollout.group * rollout.max_new_tokens * speed.response
    second = speed.second if measures(cfg) else 1.0
    trained = tokens * cfg.learner.epochs * second / speed.trained
    length = (cfg.evaluation.max_new_tokens or rollout.max_new_tokens) * speed.response
    asked = [each.n or cfg.evaluation.n for each in cfg.evaluation.tasks.values()] + [cfg.evaluation.n]
    samples = sum(asked) * min(QUESTIONS, cfg.evaluation.questions or QUESTIONS)
    evaluated = len(evaluation_steps(cfg)) * samples * length
    return slower * (tokens / speed.sampled + trained + evaluated / speed.sampled) / 3600


def parameters(cfg: Config) -> float | None:
    """The model's parameters, from its files, else from a name like ``Qwen2-7B``; None where neither tells."""
    known = card.read(cfg.model).parameters
    if known is None and (named := re.search(r"(\d+(?:\.\d+)?)B\b", cfg.model.path or "")):
        return float(named[1]) * 1e9
    return known
