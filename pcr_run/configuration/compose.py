"""From Hydra's composed configuration to the typed one, and the names of directories that follow from it."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from pcr_run.errors import ConfigError
from pcr_run.schema import FREE, Config


def register() -> None:
    """Make the schema and the resolvers of ``conf/config.yaml`` known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("cell_name", cell_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("eval_name", eval_name, replace=True)


def to_config(composed: DictConfig) -> Config:
    """The typed configuration; raises ``ConfigError`` for what is missing, unknown or does not resolve."""
    plain = _without_hydra(composed)
    for key in _added(plain, Config, ""):
        raise unknown_key(key)
    try:
        config = OmegaConf.to_object(plain)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(config, Config)
    return config


def explain(error: Exception) -> ConfigError:
    """One message that names the key, from an error of Hydra or OmegaConf."""
    if added := re.search(r"interpolation '(\w+)_\$\{scale\}'.*(task@[\w.]+)", str(error)):
        # Hydra settles what is added before the groups of the configuration, so it does not know the scale yet.
        problem = f"{added[1]} has another data set at every scale and cannot be added"
        return ConfigError(added[2], f"{problem}; right: a task with a data set of its own, like gsm8k or mbpp")
    for cause in _chain(error):
        key = str(getattr(cause, "full_key", None) or "")
        problem = str(getattr(cause, "msg", None) or cause).splitlines()[0] if str(cause) else ""
        match cause:
            case InterpolationKeyError():
                return ConfigError("configuration" if key.startswith("hydra.") else key, problem)
            case ConfigAttributeError() | ConfigKeyError():
                return unknown_key(key, cause.parent_node)
            case ValidationError() if key:
                return ConfigError(key, problem)
            case MissingMandatoryValue():
                return ConfigError(key or "configuration", "no value; choose its group or set it")
    message = str(error).strip()
    message = message.split("\nConfig search path:")[0].split("\nSee https://hydra.cc")[0]
    group = re.search(r"Could not find '([\w/@.-]+)/([^/']+)'", message)
    if group:
        options = message.partition("Available options in")[2].split("\n\t")[1:]
        return ConfigError(group[1], no_such(group[2], [option.strip() for option in options]))
    return ConfigError("command line", message)


def unknown_key(key: str, parent: Any = None) -> ConfigError:
    """The error for a key that is not there; ``parent`` is the node in which it was looked for, if known."""
    above, _, last = key.rpartition(".")
    prefix = f"{above}." if above else ""
    known = list(_keys(Config, ""))
    siblings = {entry.rpartition(".")[2]: entry for entry in known if entry.rpartition(".")[0] == above}
    free = not siblings
    if free and above and isinstance(parent, DictConfig):
        siblings = {name: prefix + name for name in map(str, parent)}
        free = not is_dataclass(OmegaConf.get_type(parent))
    close = [siblings[name] for name in difflib.get_close_matches(last, siblings)]
    close += [entry for entry in known if entry.endswith(f".{last}") and entry not in close][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else f"right: {some(siblings.values() or known)}"
    if not free:
        return ConfigError(key, f"no such key; {hint}")
    there = f"; {hint}" if close else f", which has {some(siblings)}" if siblings else ""
    return ConfigError(key, f"not set in {above or 'the configuration'}{there}; a plus adds it: +{key}=...")


def some(names: Iterable[str], shown: int = 12) -> str:
    """Names as a list in words, no longer than a message can be."""
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")


def no_such(value: object, right: list[str]) -> str:
    """``'kl3' is not known; did you mean k3? Right: k1, k2, k3``."""
    close = difflib.get_close_matches(str(value), right, n=1)
    hint = f"did you mean {close[0]}? Right" if close else "right"
    return f"{value!r} is not known; {hint}: {some(right, shown=40)}"


def fingerprint(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits that tell apart two configurations that compute different things."""
    computed = {key: value for key, value in config.items() if key not in FREE}
    return hashlib.sha256(json.dumps(computed, sort_keys=True, default=str).encode()).hexdigest()[:8]


def run_name(*, _root_: DictConfig) -> str:
    """A run's directory: readable, the same for the same configuration, another one for any other."""
    config: Any = OmegaConf.to_container(_without_hydra(_root_), resolve=True)
    first = [config["task"]["name"], config["resolver"]["name"], f"seed{config['seed']}"]
    rest = []
    for key, value in _overrides(_root_.hydra.overrides.task):
        if key not in ("task", "resolver", "seed"):
            rest.append(f"{re.split(r'[./@]', key)[-1]}{value.rsplit('/', 1)[-1]}")
    readable = re.sub(r"[^\w.-]+", "-", "-".join(first + rest))[:80].rstrip("-")
    return f"{readable}-{fingerprint(config)}"


def again(hydra: Any, module: str, config_name: str, task: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """The command line of a process that composes the same configuration: ``task`` overrides, then ``own`` values.

    ``hydra``: the node of that name of this process, whose directory of configurations and own overrides stay.
    """
    command = [sys.executable, "-P", "-m", module, "--config-name", config_name]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    return [*command, *hydra.overrides.hydra, *task, *(f"{key}={quoted(value)}" for key, value in own.items())]


def quoted(value: str) -> str:
    """A string in Hydra's override grammar."""
    return "'" + value.replace("'", "\\'") + "'"


def cell_name(*, _root_: DictConfig) -> str:
    """The directory of an experiment's run: does not depend on how its configuration was asked for."""
    config: Any = OmegaConf.to_container(_without_hydra(_root_), resolve=True)
    resolver, model = config["resolver"], config["model"]
    alpha = f"{resolver['alpha']:g}" if resolver["name"] == "fixed" else ""
    base = str(model["path"] or model["builtin"]).rstrip("/").rsplit("/", 1)[-1]
    parts = [base, config["task"]["name"], resolver["name"] + alpha, f"seed{config['seed']}", fingerprint(config)]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts))


def eval_name(*, _root_: DictConfig) -> str:
    """The directory of an evaluation: names the model, the same for the same configuration."""
    config: Any = OmegaConf.to_container(_without_hydra(_root_), resolve=True)
    parts = str(config["model"]["path"] or config["model"]["builtin"]).split("/")
    named = [part for part in parts if part and part not in ("final", "checkpoints")]
    shown = named[-2:] if re.fullmatch(r"step-\d+", named[-1]) else named[-1:]
    readable = re.sub(r"[^\w.-]+", "-", "-".join(["eval", *shown]))[:80]
    return f"{readable}-{fingerprint(config)}"


def sweep_name(*, _root_: DictConfig) -> str:
    """A sweep's directory: names what varies; the same command gives the same one."""
    parser = OverridesParser.create()
    params = {key: f"{key}={value}" for key, value in (_root_.hydra.sweeper.get("params") or {}).items()}
    given = dict(_overrides([*params.values(), *_root_.hydra.overrides.task]))
    varied = [key for key, value in given.items() if parser.parse_override(f"{key}={value}").is_sweep_override()]
    readable = re.sub(r"[^\w.-]+", "-", "-".join(["sweep", *varied]))[:80]
    return f"{readable}-{fingerprint({'config': _root_.hydra.job.config_name, 'given': given})}"


def _without_hydra(composed: DictConfig) -> DictConfig:
    plain = composed.copy()
    OmegaConf.set_struct(plain, False)
    plain.pop("hydra", None)
    return plain


def _overrides(overrides: Any) -> Iterator[tuple[str, str]]:
    """(key, value) of the overrides that change what a run computes, sorted by key."""
    pairs = (override.lstrip("+~").partition("=")[::2] for override in overrides)
    return iter(sorted((key, value) for key, value in pairs if re.split(r"[./@]", key)[0] not in FREE))


def _keys(schema: Any, prefix: str) -> Iterator[str]:
    """Every dotted key of a dataclass, without those inside free-form dicts."""
    for entry in fields(schema):
        yield prefix + entry.name
        inner = entry.default_factory
        if is_dataclass(inner):
            yield from _keys(inner, f"{prefix}{entry.name}.")


def _added(node: DictConfig, schema: Any, prefix: str) -> Iterator[str]:
    """Keys that ``+key=value`` put beside those of the schema."""
    known = {entry.name: entry.default_factory for entry in fields(schema)}
    for key in map(str, node):
        if key not in known:
            yield f"{prefix}{key}"
        elif is_dataclass(known[key]) and not OmegaConf.is_missing(node, key):
            yield from _added(node[key], known[key], f"{prefix}{key}.")


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from; OmegaConf raises some a second time, which closes a circle."""
    chain: list[BaseException] = []
    while error is not None and not any(error is known for known in chain):
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
