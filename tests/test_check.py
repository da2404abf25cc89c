"""Bad input: one message that names the key, exit code 2, no traceback, and nothing left behind."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf

from pcr_run import reward
from pcr_run.configuration import compose
from pcr_run.configuration.check import ANCHORED, CHOICES, RANGES, check, check_directory, check_rule, get
from pcr_run.configuration.costs import device_hours
from pcr_run.errors import ConfigError
from pcr_run.records import result
from pcr_run.schema import Config, to_dict

pytest_plugins = ["command_line"]


@functools.cache
def composed(*overrides: str) -> DictConfig:
    compose.register()
    with initialize_config_module("pcr_run.conf", version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))


def config(*overrides: str) -> Config:
    """A typed configuration; only choices of groups, which have no dot, are left to Hydra."""
    keys = [override for override in overrides if "." in override.partition("=")[0]]
    cfg = composed(*(override for override in overrides if override not in keys)).copy()
    for key, _, value in (override.partition("=") for override in keys):
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return compose.to_config(cfg)


# What is typed, the key that the message starts with, and what else it says.
BAD = [
    # the command line itself
    ("foo=1", "foo", "no such key"),
    ("+foo=1", "foo", "no such key"),
    ("learner.learning_rate=1", "learner.learning_rate", "right: learner.lr"),
    ("learner.klx=k1", "learner.klx", "did you mean learner.kl"),
    ("+resolver.klx=k1", "resolver.klx", "no such key"),
    ("task.data.sizee=1", "task.data.sizee", "+task.data.sizee"),
    (
        "evaluation.tasks.math.data.sourc=x",
        "evaluation.tasks.math.data.sourc",
        "did you mean evaluation.tasks.math.data.source",
    ),
    ("evaluation.tasks.math.data.path=x", "evaluation.tasks.math.data.path", "+evaluation.tasks.math.data.path="),
    (
        "evaluation.tasks.math.verifierr=x",
        "evaluation.tasks.math.verifierr",
        "did you mean evaluation.tasks.math.verifier?",
    ),
    ("evaluation.tasks.mat.name=x", "evaluation.tasks.mat", "did you mean evaluation.tasks.math"),
    ("rollout.engine.x=1", "rollout.engine.x", "+rollout.engine.x="),
    ("+task@evaluation.tasks.x=code", "task@evaluation.tasks.x", "like gsm8k"),
    ("zzz.zzz.zzz=1", "zzz", "no such key; right: scale"),
    ("measure.zzz=1", "measure.zzz", "right: measure."),
    ("resolver=prc", "resolver", "did you mean pcr?"),
    ("task=maths", "task", "did you mean math?"),
    ("setting=none_such", "setting", "not known"),
    ("~resolver", "resolver.name", "no value"),
    ("steps=many", "steps", "Integer"),
    ("steps=5.5", "steps", "Integer"),
    ("steps=null", "steps", "not Optional"),
    ("learner.lr=fast", "learner.lr", "Float"),
    ("dry_run=perhaps", "dry_run", "bool"),
    ("model.path=[1]", "model.path", "string"),
    ("evaluation.tasks=null", "evaluation.tasks", "not Optional"),
    ("learner.betas=0.9", "learner.betas", ""),
    ("seed=${nothing}", "seed", "nothing"),
    ("learner=[1", "command line", ""),
    # names
    ("learner.kl=kl3", "learner.kl", "did you mean k3?"),
    ("resolver.name=nowhere_to_be_found:Half", "resolver.name", "no module 'nowhere_to_be_found'"),
    ("resolver.name=json:", "resolver.name", "json:Class"),
    ("resolver.pattern='(mlp'", "resolver.pattern", "regular expression"),
    ("resolver.space=adam", "resolver.space", "preconditioned"),
    ("resolver.space=preconditioned learner.optimizer=sgd", "resolver.space", "learner.optimizer=adamw"),
    ("evaluation.tasks.code.verifier=judge", "evaluation.tasks.code.verifier", "sandbox"),
    ("task.data.source=null", "task.data.source", "module:function"),
    ("task.data.source=algebra", "task.data.source", "module of pcr_run.task"),
    ("task.data.source=nowhere:load", "task.data.source", "module:function"),
    # contradictions
    ("learner.clip_low=0.3 learner.clip_high=0.2", "learner.clip_low", "learner.clip_high=0.2"),
    ("learner.clip_low=0.3", "learner.clip_low", "learner.clip_high=0.2"),
    ("learner.surrogate=gsp", "learner.surrogate", "did you mean gspo"),
    ("learner.surrogate=cispo learner.dual_clip=3", "learner.dual_clip", "right: null"),
    ("learner.dual_clip=1", "learner.dual_clip", "above 1"),
    ("learner=gvpo learner.dual_clip=3", "learner.dual_clip", "no ratio"),
    ("learner=gvpo learner.clip_high=0.3", "learner.clip_high", "no ratio"),
    ("learner.kl=variance", "learner.aggregation", "right: sequence_sum"),
    ("learner=gvpo learner.mask_truncated=true", "learner.mask_truncated", "a group must be whole"),
    ("learner=gvpo rollout.group=1 learner.microbatch=1 resolver=none", "rollout.group", "no variance"),
    ("learner=gvpo learner.kl_in=reward resolver=none", "learner.kl", "right: k1, k2 or k3"),
    ("learner.kl_in=reward", "learner.kl_in", "no stability gradient, which resolver=pcr needs"),
    ("learner.kl_in=reward resolver=none learner.kl=exact", "learner.kl", "right: k1, k2 or k3"),
    ("learner.reference=every:0", "learner.reference", "ema:RATE"),
    ("learner.reference=ema:0.1 model.dtype=bfloat16", "learner.reference", "model.dtype=float32"),
    ("rollout.importance_floor=3", "rollout.importance_floor", "rollout.importance_cap=2"),
    ("reward.overlong=1000", "reward.overlong", "rollout.max_new_tokens"),
    ("rollout.dynamic=true rollout.max_rounds=1", "rollout.max_rounds", "at least 2"),
    ("rollout.lora=adapter learner.lora.r=4", "rollout.lora", "right: merged"),
    ("rollout=vllm rollout.lora=adapter", "rollout.lora", "there is no adapter"),
    ("rollout=vllm rollout.lora=adapter learner.lora.r=600", "rollout.lora", "rank 512 at most"),
    ("rollout=vllm launch.nproc=2 rollout.gpus=1", "rollout.gpus", "2 processes, each with an engine on 1, need 2"),
    (
        "rollout=vllm launch.nproc=2 rollout.engine.tensor_parallel_size=2",
        "rollout.engine.tensor_parallel_size",
        "rollout.gpus with 4 GPUs",
    ),
    ("learner.optimizer=adam", "learner.optimizer", "adamw"),
    ("rollout.group=1 learner.microbatch=1 measure.unit=query", "rollout.group", "learner.advantage"),
    ("rollout.group=1 learner.microbatch=1 learner.advantage=dr_grpo", "measure.unit", "rollout.group"),
    ("rollout.prompts=1 learner.microbatch=8 measure.unit=query", "measure.unit", "2 prompts"),
    ("rollout.prompts=4 learner.minibatches=4 learner.microbatch=8 measure.unit=query", "measure.unit", "2 prompts"),
    ("learner.microbatch=128 measure.unit=microbatch", "measure.unit", "2 microbatches"),
    ("learner.microbatch=4 measure.unit=microbatch", "measure.unit", "whole groups"),
    (
        "resolver=none measure=all measure.unit=query rollout.prompts=1 learner.microbatch=8",
        "measure.unit",
        "2 prompts",
    ),
    ("learner.microbatch=3", "learner.microbatch", "right: 1, 2, 4, 8, 16, 32, 64, 128"),
    ("learner.microbatch=24", "learner.microbatch", "right: "),
    ("learner.microbatch=256", "learner.microbatch", "right: "),
    ("learner.minibatches=3", "learner.minibatches", "right: 1, 2, 4, 8, 16"),
    ("task=math reward=sandbox", "reward.verifier", "answers, not tests"),
    ("task=code reward.verifier=math", "reward.verifier", "tests, not answers"),
    ("reward=model", "reward.path", "sequence classifier"),
    ("reward.correctness=0", "reward.correctness", "nothing to learn"),
    ("model.builtin=null", "model.path", "model.builtin"),
    ("sandbox.seconds=30", "sandbox.wall_seconds", "sandbox.seconds"),
    ("tracker.wandb.mode=online", "tracker.wandb.mode", "wandb login"),
    # files
    ("model.path=/none/such", "model.path", "does not exist"),
    ("model.path=./none/such/model", "model.path", "does not exist"),
    ("model.path=.", "model.path", "no config.json"),
    ("model.path=a_file", "model.path", "is a file"),
    ("model.chat_template=none.jinja", "model.chat_template", "not a file"),
    ("reward=model reward.path=./none", "reward.path", "does not exist"),
    ("reward=model reward.path=.", "reward.path", "no config.json"),
    ("hydra.run.dir=a_file/run", "hydra.run.dir", "choose another directory"),
    ("hydra.run.dir=/proc/run", "hydra.run.dir", "choose another directory"),
]


RANGE = [
    ("seed=-1", "seed", "from 0"),
    ("steps=-1", "steps", "at least 0"),
    ("threads=0", "threads", "at least 1"),
    ("launch.timeout=1e30", "launch.timeout", "at most 1e9"),
    ("device=gpu", "device", "cuda:N"),
    ("rollout.prompts=0", "rollout.prompts", "at least 1"),
    ("rollout.group=0", "rollout.group", "at least 1"),
    ("rollout.temperature=0", "rollout.temperature", "above 0"),
    ("rollout.max_new_tokens=-5", "rollout.max_new_tokens", "at least 1"),
    ("reward.unboxed=1.5", "reward.unboxed", "from 0 to 1"),
    ("reward.workers=0", "reward.workers", "at least 1"),
    ("resolver.alpha=1.01", "resolver.alpha", "from 0 to 1"),
    ("measure.every=0", "measure.every", "at least 1"),
    ("learner.lr=-1e-4", "learner.lr", "from 0 to 1"),
    ("learner.lr=nan", "learner.lr", "from 0 to 1"),
    ("learner.beta=-0.1", "learner.beta", "at least 0"),
    ("learner.beta=inf", "learner.beta", "at least 0"),
    ("learner.betas=[0.9]", "learner.betas", "two numbers"),
    ("learner.betas=[0.9,1.0]", "learner.betas", "below 1"),
    ("learner.clip_low=1.2", "learner.clip_low", "at most 1"),
    ("learner.clip_high=0", "learner.clip_high", "above 0"),
    ("learner.max_grad_norm=0", "learner.max_grad_norm", "above 0"),
    ("learner.warmup=2", "learner.warmup", "from 0 to 1"),
    ("evaluation.n=-1", "evaluation.n", "at least 0"),
    ("evaluation.top_p=0", "evaluation.top_p", "above 0"),
    ("evaluation.temperature=-1", "evaluation.temperature", "at least 0"),
    ("evaluation.every=-1", "evaluation.every", "at least 0"),
    ("checkpoint.keep=0", "checkpoint.keep", "at least 1"),
    ("checkpoint.every=-1", "checkpoint.every", "at least 0"),
    ("sandbox.memory_mb=0", "sandbox.memory_mb", "at least 1"),
]


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize(("typed", "key", "says"), BAD, ids=[case[0] for case in BAD])
def test_bad_input_ends_with_one_message_that_names_the_key(command, work, typed, key, says):
    (work / "a_file").write_text("content")
    ended = command(*typed.split(" "))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"pcr-run: error: {key}")
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") <= 6
    assert len(ended.err) < 720
    files = [path for path in work.rglob("*") if path.is_file()]
    assert files == [work / "a_file"]
    assert files[0].read_text() == "content"


@pytest.mark.parametrize(
    ("variables", "typed", "says"),
    [
        ({"XDG_CACHE_HOME": "/proc/nowhere"}, "", "XDG_CACHE_HOME: cannot write in /proc/nowhere/pcr-run"),
        ({"HOME": "/proc/nobody"}, "", "HOME: cannot write in /proc/nobody/.cache/pcr-run"),
        ({"PCR_RUN_CACHE": "/proc/x", "HOME": "/proc/y"}, "", "PCR_RUN_CACHE: cannot write in /proc/x "),
        ({"PCR_RUN_CACHE": "a_file"}, "", "PCR_RUN_CACHE: cannot write in"),
        ({"HF_HOME": "/proc/x"}, "model.path=owner/name", "HF_HOME: cannot write in /proc/x/hub"),
        ({"HF_HUB_CACHE": "/proc/x"}, "model.path=owner/name", "HF_HUB_CACHE: cannot write in /proc/x "),
        (
            {"XDG_CACHE_HOME": "/proc/x"},
            "model.path=owner/name",
            "XDG_CACHE_HOME: cannot write in /proc/x/huggingface/hub",
        ),
        ({"HF_HOME": "/proc/x"}, "+task@evaluation.tasks.amc23=amc23", "HF_HOME: cannot write in /proc/x/datasets"),
        ({"HF_DATASETS_CACHE": "/proc/x"}, "evaluation.text={source: hub}", "HF_DATASETS_CACHE: cannot write"),
    ],
)
def test_a_cache_that_cannot_be_written_is_told_before_the_run(command, work, monkeypatch, variables, typed, says):
    (work / "a_file").write_text("content")
    for name in ("PCR_RUN_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = command(*filter(None, [typed]))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith(f"pcr-run: error: {says}")
    assert "to a writable directory" in ended.err


def test_a_user_without_a_home_is_told(command, monkeypatch):
    for name in ("PCR_RUN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~no-such-user").expanduser())
    ended = command()
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: HOME: not set")


def test_what_a_models_files_lack_is_told_before_the_run(command, work):
    (work / "encoder").mkdir()
    (work / "encoder" / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    ended = command("model.path=encoder")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: model.path: encoder is not a causal LM")
    assert not list(work.glob("outputs/*"))


@pytest.mark.parametrize("typed", ["task=code evaluation=none", "task=math", "-m task=code,math"])
def test_a_sandbox_that_does_not_work_is_told_before_the_run(command, work, monkeypatch, typed):
    def refuse(sandbox: object) -> None:
        raise ConfigError("sandbox.isolation", "auto does not work here")

    monkeypatch.setattr(reward, "isolation", refuse)
    ended = command(*typed.split(" "))
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: sandbox.isolation: auto does not work here")
    assert not [*work.rglob("config.yaml"), *work.rglob("starts")]


@pytest.mark.parametrize(("typed", "key", "right"), RANGE, ids=[case[0] for case in RANGE])
def test_a_value_out_of_range_is_answered_with_the_range(typed, key, right):
    with pytest.raises(ConfigError) as caught:
        check(config(typed))
    assert caught.value.key == key
    assert right in caught.value.problem


def test_errors_that_refer_to_each_other_are_explained_once():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert str(compose.explain(first)) == "command line: first"


def test_there_are_enough_cases_and_each_is_another():
    assert len({case[0] for case in BAD}) == len(BAD) >= 30


def test_every_default_of_the_schema_is_inside_its_own_rules():
    check(config())


@pytest.mark.parametrize("key", CHOICES)
def test_an_unknown_name_is_answered_with_those_that_are_known(key):
    with pytest.raises(ConfigError) as caught:
        check(config("measure=all", f"{key}=zzz" if "." in key else f"++{key}=zzz"))
    assert caught.value.key == key
    assert all(name in caught.value.problem for name in CHOICES[key])


@pytest.mark.parametrize("task", ["math", "code"])
@pytest.mark.parametrize("scale", ["embedded", "smollm2", "paper"])
def test_every_task_at_every_scale_is_valid(task, scale):
    # scale=paper samples with vLLM, which need not be installed here.
    without = ["rollout=hf"] if importlib.util.find_spec("vllm") is None else []
    check(config(f"task={task}", f"scale={scale}", *without))


@pytest.mark.parametrize("resolver", CHOICES["resolver.name"])
def test_every_resolver_is_valid_with_the_keys_that_all_share(resolver):
    check(config(f"resolver={resolver}", "measure=all", "resolver.modules=all", "resolver.alpha=0.2"))


@pytest.mark.parametrize(
    "typed",
    [
        "rollout.group=1 learner.microbatch=1 learner.advantage=dr_grpo measure.unit=query",
        "resolver=none rollout.prompts=1 learner.microbatch=8 measure.unit=query",  # nothing is measured
        "learner.microbatch=64 measure.unit=microbatch",
        "learner.microbatch=4",
        "learner.minibatches=4 learner.microbatch=32",
        "learner.clip_high=0.28",
        "learner.beta=0",
        "steps=0",
        "evaluation=none",
        "model.path=Qwen/Qwen2.5-0.5B-Instruct",
        "model.path=gpt2",
        "resolver.name=json:JSONDecoder",
        "device=cuda:1",
        "learner.max_grad_norm=null",
    ],
)
def test_what_is_right_passes(typed):
    check(config(*typed.split(" ")))


def test_the_embedded_scale_says_what_a_run_took():
    """60 steps of 16 x 8 responses took 80 to 95 s on one core."""
    cfg = config("setting=forgetting", "resolver=none", "steps=60", "rollout.prompts=16")
    assert 80 < 3600 * device_hours(cfg) < 95


def test_every_key_with_a_rule_is_in_the_schema():
    cfg = config()
    for key in (*CHOICES, *RANGES):
        get(cfg, key)


def test_the_names_are_those_that_exist():
    from pcr_run.resolver import RULES

    assert set(CHOICES["resolver.name"]) == set(RULES)
    assert set(ANCHORED) == {name for name, rule in RULES.items() if rule.anchors}
    assert set(CHOICES["reward.name"]) == set(reward.NAMES)
    assert set(CHOICES["reward.verifier"]) == set(reward.VERIFIERS)


def test_every_number_of_the_schema_has_a_range():
    for key, value in _leaves(to_dict(config())):
        if isinstance(value, int | float) and not isinstance(value, bool) and ".data." not in key:
            assert key in RANGES, key


def _leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("learner.kl=k1", "zero expected gradient"),
        *((f"learner.reference={old}", "always 0") for old in ("old", "every:1", "ema:1.0")),
        ("learner.reference=every:60", "every:60 renews nothing in 60 steps"),
        ("learner.dual_clip=3", "learner.dual_clip: with one update per batch"),
        ("learner.clip_low=0.1", "learner.clip_low: with one update per batch"),
        ("learner.zero_advantage=skip learner.beta=0", "no KL term in the loss"),
        ("rollout.importance=sequence", "rollout.importance: does nothing without rollout.old_logprobs=engine"),
        ("rollout.importance_floor=0.5", "rollout.importance_floor: does nothing without"),
        ("rollout.max_rounds=3", "rollout.max_rounds: does nothing without rollout.dynamic=true"),
        ("rollout.gpus=1", "rollout.gpus: does nothing without rollout=vllm or rollout.lag=1"),
        ("evaluation.temperature=0", "greedy"),
        ("resolver.space=preconditioned steps=1", "before there are moments"),
        ("rollout.group=1 learner.microbatch=1 learner.advantage=dr_grpo measure.unit=query", "only the KL term"),
    ],
)
def test_what_is_in_vain_warns(caplog, typed, says):
    check(config(*typed.split(" ")))
    assert says in caplog.text


@pytest.mark.parametrize(
    "typed",
    [
        "learner.reference=old learner.epochs=2",
        "learner.reference=every:59",
        "learner.reference=ema:0.1",
        "learner.dual_clip=3 learner.clip_low=0.1 learner.minibatches=2",
        "learner.zero_advantage=skip",
        "rollout.old_logprobs=engine rollout.importance=sequence rollout.importance_mode=mask",
        "rollout.dynamic=true rollout.max_rounds=3 reward.overlong=16",
        "learner=gvpo learner.epochs=2",
    ],
)
def test_what_acts_does_not_warn(caplog, typed):
    check(config(*typed.split(" ")))
    assert caplog.text == ""


def test_k1_does_not_warn_where_nothing_anchors_on_the_stability_gradient(caplog):
    check(config("learner.kl=k1", "resolver=none"))
    check(config("learner.kl=k1", "resolver=pcgrad"))
    assert caplog.text == ""


@pytest.mark.parametrize("anchors", [True, False])
def test_k1_warns_where_a_rule_of_the_user_anchors(caplog, monkeypatch, tmp_path, anchors):
    name = f"rule_{anchors}".lower()
    body = f"class Rule:\n    anchors = {anchors}\n    def __call__(self, table, beta): return table.plain(beta)\n"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = config("learner.kl=k1", f"resolver.name={name}:Rule")
    check(cfg)
    check_rule(cfg)
    assert ("anchors on noise" in caplog.text) == anchors


@pytest.mark.parametrize("how", ["environment", "netrc", "own server"])
@pytest.mark.usefixtures("no_login")
def test_online_is_allowed_with_a_login(monkeypatch, tmp_path, how):
    if how == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        host = "api.wandb.ai" if how == "netrc" else "wandb.example.org"
        if how == "own server":
            monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / ".netrc").write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
        (tmp_path / "home" / ".netrc").chmod(0o600)
    check(config("tracker.wandb.mode=online"))


def test_a_directory_of_another_configuration_is_refused_with_the_differences(tmp_path):
    result.save_config(tmp_path, config("steps=5", "learner.lr=1e-5"))
    with pytest.raises(ConfigError, match=r"learner\.lr: 1e-05 there, 0\.0002 here; steps: 5 there, 6 here") as caught:
        check_directory(config("steps=6"), tmp_path)
    assert caught.value.key == "hydra.run.dir"


def test_what_does_not_change_the_run_may_differ_in_its_directory(tmp_path):
    result.save_config(tmp_path, config())
    free = ("checkpoint.every=3", "tracker.wandb.mode=disabled", "tracker.transcripts=0")
    check_directory(config("dry_run=true", *free), tmp_path)


def test_resume_never_refuses_a_directory_with_a_run(tmp_path):
    check_directory(config("resume=never"), tmp_path)
    result.save_config(tmp_path, config())
    with pytest.raises(ConfigError, match="resume: never"):
        check_directory(config("resume=never"), tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "final", "checkpoints"])
def test_files_of_something_else_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name):
        check_directory(config(), tmp_path)


def test_a_damaged_config_in_the_directory_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        check_directory(config(), tmp_path)
