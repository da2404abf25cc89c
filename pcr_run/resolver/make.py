"""Rules by name: the built-in ones and those that a user brings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pcr_run.errors import ConfigError
from pcr_run.resolver.base import Resolver
from pcr_run.resolver.cagrad import CAGrad
from pcr_run.resolver.fixed import Fixed
from pcr_run.resolver.gac import GAC
from pcr_run.resolver.gradvac import GradVac
from pcr_run.resolver.mgda import MGDA
from pcr_run.resolver.mgs import MGS
from pcr_run.resolver.none import PlainSum
from pcr_run.resolver.pcgrad import PCGrad
from pcr_run.resolver.pcr import PCR
from pcr_run.resolver.pcr_literal import PCRLiteral
from pcr_run.resolver.shrink import Shrink
from pcr_run.resolver.torchjd import TorchJD
from pcr_run.schema import ResolverConfig

RULES: dict[str, type[Resolver]] = {
    "none": PlainSum,
    "pcgrad": PCGrad,
    "fixed": Fixed,
    "pcr": PCR,
    "pcr_literal": PCRLiteral,
    "mgs": MGS,
    "mgda": MGDA,
    "cagrad": CAGrad,
    "gradvac": GradVac,
    "gac": GAC,
    "shrink": Shrink,
    "torchjd": TorchJD,
}
SHARED = ("alpha", "alpha_scale", "weighting")
"""Options that every resolver YAML has; a rule gets those that its signature names."""


def make(name: str, **options: Any) -> Resolver:
    """The rule ``name`` (built in, or ``module:Class`` of your own) with its options. Errors: ConfigError."""
    return _build(_rule(name), options, "resolver")


def from_config(cfg: ResolverConfig) -> Resolver:
    """The rule of a configuration: the shared keys that it names, and all of ``resolver.options``."""
    rule = _rule(cfg.name)
    shared = {key: getattr(cfg, key) for key in SHARED if key in inspect.signature(rule).parameters}
    return _build(rule, shared | dict(cfg.options), "resolver.options")


def _rule(name: str) -> type[Resolver]:
    """The class called ``name``."""
    if name in RULES:
        return RULES[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError("resolver.name", f"is {name!r}; one of {', '.join(RULES)}, or module:Class of your own")
    try:
        rule = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's file raises while it is imported; the cause goes to the log
        raise ConfigError("resolver.name", f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(rule) and "__call__" in dir(rule)):
        raise ConfigError("resolver.name", f"{name} is no class with __call__(self, table, beta)")
    return rule if issubclass(rule, Resolver) else type(rule.__name__, (rule, Resolver), {})


def _build(rule: type[Resolver], options: Mapping[str, Any], where: str) -> Resolver:
    """An instance; ``where`` is the key under which the user wrote unknown options."""
    parameters = inspect.signature(rule).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options.keys() - parameters.keys():
            raise ConfigError(f"{where}.{key}", f"{rule.__name__} takes {', '.join(parameters) or 'no options'}")
    try:
        return rule(**options)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(where, f"{rule.__name__}: {error}") from error
