"""The conflict rule and what it acts on."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator

from pcr_run.configuration.check.sources import findable
from pcr_run.schema import Config
from pcr_run.schema.learner import SMALL, STATES

log = logging.getLogger(__name__)

ANCHORED = ("pcr", "pcr_literal", "fixed")
"""Built-in resolvers that project on the stability gradient; for one of the user's its class says so (``anchors``)."""

ANCHORS_ON_NOISE = "k1 has zero expected gradient on policy: resolver {} anchors on noise"


def problems(cfg: Config) -> Iterator[tuple[str, str]]:
    """Patterns that are none, rules that cannot be found, a metric of moments that are not kept."""
    if cfg.resolver.pattern is not None:
        try:
            re.compile(cfg.resolver.pattern)
        except re.error as error:
            yield "resolver.pattern", f"{cfg.resolver.pattern!r} is no regular expression: {error}"
    if ":" in cfg.resolver.name:
        yield from _importable("resolver.name", cfg.resolver.name)
    state, _ = STATES[cfg.learner.optimizer]
    if cfg.resolver.space == "preconditioned" and not state(4, SMALL):
        problem = f"preconditioned takes moments, and learner.optimizer={cfg.learner.optimizer} keeps none"
        yield "resolver.space", f"{problem}; right: gradient, or learner.optimizer=adamw"
    if cfg.resolver.name == "torchjd" and importlib.util.find_spec("torchjd") is None:
        yield "resolver.name", "torchjd is not installed; pip install 'pcr-run[torchjd]'"


def doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    """A built-in rule that would anchor on noise; a metric that no update would see."""
    if cfg.learner.kl == "k1" and cfg.resolver.name in ANCHORED:
        yield "learner.kl", ANCHORS_ON_NOISE.format(cfg.resolver.name)
    if cfg.resolver.space == "preconditioned" and cfg.steps * cfg.learner.epochs * cfg.learner.minibatches == 1:
        yield "resolver.space", "the only update comes before there are moments: it is resolved in gradient space"


def check_rule(cfg: Config) -> None:
    """Raise ``ConfigError`` unless a resolver with its own options, or one of the user's, can be made. Needs torch.

    Logs a warning where one of the user's would anchor on noise.
    """
    own = ":" in cfg.resolver.name
    if cfg.resolver.name == "torchjd" or own or cfg.resolver.options:
        from pcr_run.resolver import from_config

        rule = from_config(cfg.resolver)
        if own and cfg.learner.kl == "k1" and rule.anchors:
            log.warning("learner.kl: %s", ANCHORS_ON_NOISE.format(cfg.resolver.name))


def _importable(key: str, name: str) -> Iterator[tuple[str, str]]:
    """A name ``module:attribute`` must have a module that can be found; it is not imported here."""
    module, _, attribute = name.partition(":")
    if not findable(module):
        yield key, f"no module {module!r}; put {module}.py into the directory of --config-dir or on PYTHONPATH"
    elif not attribute.isidentifier():
        yield key, f"{name!r} names no class; right: {module}:Class"
