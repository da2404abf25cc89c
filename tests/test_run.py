"""Whole runs on an untrained model: the same seed, interruptions, a full disk. What is killed is another process."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import in_process
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pcr_run.errors import ConfigError
from pcr_run.model import load
from pcr_run.run import saving
from pcr_run.run.parts import assemble, make_tasks
from pcr_run.schema import CheckpointConfig, Config, ModelConfig, TaskConfig

STEPS = 4
ARGUMENTS = [
    f"steps={STEPS}",
    "rollout.prompts=4",
    "rollout.group=4",
    "learner.microbatch=8",
    "learner.tokens=null",
    "learner.minibatches=2",
    "learner.schedule=linear",
    "evaluation.questions=4",
    "evaluation.n=2",
    "evaluation.every=2",
    "checkpoint.every=1",
    "rollout.max_new_tokens=12",
    "learner.lr=1e-3",
    "evaluation.cache=false",
    "reward=model",  # a random one: unlike a verifier it finds something to learn from in noise
    "tracker.wandb.mode=disabled",
    "tracker.report=false",
]
FILES = ("metrics", "layers", "rollouts", "evaluations")


@pytest.fixture(scope="module", autouse=True)
def models(untrained: Path, scorer: Path) -> Iterator[None]:
    ARGUMENTS.extend([f"model.path={untrained}", f"reward.path={scorer}"])
    yield
    del ARGUMENTS[-2:]


def start(directory: Path, *more: str, program: tuple[str, ...] = ("-m", "pcr_run.cli")) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    command = [sys.executable, *program, *ARGUMENTS, f"hydra.run.dir={directory}", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(directory: Path, *more: str) -> int:
    """A run from where it stands to its end, in this process; its exit code."""
    return in_process.run(*ARGUMENTS, f"hydra.run.dir={directory}", *more)


def records(directory: Path, name: str) -> list[dict[str, Any]]:
    """Lines of a file without what depends on the clock."""
    lines = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
    return [{key: v for key, v in line.items() if not key.startswith(("time/", "perf/"))} for line in lines]


def assert_same(one: Path, other: Path) -> None:
    """Every record and every weight, bit for bit."""
    for name in FILES:
        assert records(one, name) == records(other, name), name
    weights = [load_file(path / "final" / "model.safetensors") for path in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert weight.equal(weights[1][name]), name


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.01)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(models: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert finish(directory) == 0
    return directory


def test_a_run_directory_is_complete_by_itself(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert result["status"] == "complete"
    assert set(result["scores"]) == {"math", "code"}
    assert result["scores"]["math"]["before"]["questions"] == 4
    nothing = {"same": 0, "ngram": 0, "train": 512, "test": 128}
    assert result["overlap"] == {"math": nothing, "code": nothing}
    assert {"rollout", "reward", "learner", "evaluation"} <= set(result["seconds"])
    assert [line["step"] for line in records(whole, "metrics")] == [1, 2, 3, 4]
    assert [line["step"] for line in records(whole, "evaluations")] == [0, 2, 4]
    # 4 MLP groups or however many blocks the model has, in each of 2 minibatches of 4 steps
    layers = records(whole, "layers")
    groups = {line["group"] for line in layers}
    assert len(layers) == len(groups) * 2 * STEPS
    assert len(list((whole / "checkpoints").iterdir())) == 2
    environment = json.loads((whole / "env.json").read_text())
    assert environment["versions"]["torch"].startswith("2.13")


def test_a_task_without_training_questions_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"problem": "1 + 1 =", "answer": 2}\n')
    data = {"source": "hub", "train": None, "test": {"path": str(questions)}}
    cfg = Config(task=TaskConfig(name="aime24", verifier="math", data=data))
    said: list[str] = []
    with (
        pytest.raises(ConfigError, match=r"^task: aime24 is only measured; choose a task with training questions$"),
        ExitStack() as stack,
    ):
        assemble(cfg, torch.device("cpu"), tmp_path, stack, said.append)
    assert said == ["loading the task"]


@pytest.mark.parametrize(
    ("name", "key"), [("t", "task.data.test"), ("measured", "evaluation.tasks.measured.data.test")]
)
def test_a_file_that_is_missing_is_named_once_under_the_key_that_names_it(tmp_path: Path, name: str, key: str) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"problem": "1 + 1 =", "answer": 2}\n{"problem": "1 + 2 =", "answer": 3}\n')
    trained = {
        "source": "hub",
        "train": {"path": str(questions)},
        "test": {"path": str(questions), "keep": {"answer": {"max": 2}}},
    }
    missing = {"source": "hub", "train": None, "test": {"path": "no/such.jsonl"}}
    cfg = Config(task=TaskConfig(name="t", verifier="math", data=missing if name == "t" else trained))
    cfg.evaluation.tasks = {"measured": TaskConfig(name="m", verifier="math", data=missing)}
    with pytest.raises(ConfigError) as told:
        make_tasks(cfg)
    assert told.value.key.startswith(key)
    assert str(told.value).count("no/such.jsonl") == 1


def test_what_was_trained_loads_in_transformers_and_differs_from_the_base(whole: Path, untrained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole / "final")
    assert tokenizer.chat_template
    final = AutoModelForCausalLM.from_pretrained(whole / "final").state_dict()
    base = AutoModelForCausalLM.from_pretrained(untrained).state_dict()
    assert any(not base[name].equal(weight) for name, weight in final.items())


def test_another_seed_gives_another_run(whole: Path, tmp_path: Path) -> None:
    """The same seed gives the same one: every test below ends so, with what another process has begun."""
    assert finish(tmp_path / "other", "seed=1", "steps=1", "evaluation=none") == 0
    first = [line for line in records(whole, "rollouts") if line["step"] == 1]
    other = records(tmp_path / "other", "rollouts")
    for key in ("item", "response"):
        assert [line[key] for line in first] != [line[key] for line in other]


def test_prompts_do_not_depend_on_the_resolver(whole: Path, tmp_path: Path) -> None:
    assert finish(tmp_path / "none", "resolver=none", "evaluation=none") == 0
    items = [[line["item"] for line in records(path, "rollouts")] for path in (whole, tmp_path / "none")]
    assert items[0] == items[1]
    first = [records(path, "metrics")[0] for path in (whole, tmp_path / "none")]
    assert first[0]["reward"] == first[1]["reward"]
    assert records(tmp_path / "none", "layers") == []


def test_killed_at_random_moments_it_ends_as_the_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    """Kill -9 some way into each step, also while its records and checkpoint are written."""
    rng = random.Random(0)
    for step in range(1, STEPS):
        process = start(tmp_path / "run")
        wait_for(lambda step=step: lines(tmp_path / "run" / "metrics.jsonl") >= step, process)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.communicate()
    assert finish(tmp_path / "run") == 0
    assert_same(whole, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resumed_from"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_of_the_last_step(whole: Path, tmp_path: Path, number: int, code: int) -> None:
    directory = tmp_path / "run"
    process = start(directory, "checkpoint.every=0")
    wait_for(lambda: lines(directory / "metrics.jsonl") >= 2, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert "Traceback" not in out + err
    done = lines(directory / "metrics.jsonl")
    assert [path.name for path in (directory / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    assert json.loads((directory / "result.json").read_text())["status"] == "interrupted"
    assert finish(directory, "checkpoint.every=0") == 0
    assert_same(whole, directory)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)  # as if it had been killed after its last step
    shutil.rmtree(directory / "final")
    (directory / "result.json").unlink()
    newest = max((directory / "checkpoints").glob("step-*")) / "state.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert finish(directory) == 0
    assert newest.parent.name in "".join(capfd.readouterr())
    assert json.loads((directory / "result.json").read_text())["resumed_from"] == [STEPS - 1]
    assert_same(whole, directory)


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_intact(whole: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: records fit, the next checkpoint does not."""
    directory = tmp_path / "run"
    process = start(directory, program=("-c", LIMITED, str(directory)))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "no space left" in err
    assert "Traceback" not in err
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step-000001"]
    assert finish(directory) == 0
    assert_same(whole, directory)


LIMITED = """
import pathlib, resource, signal, sys, threading, time
checkpoint = pathlib.Path(sys.argv[1], "checkpoints", "step-000001")
def limit():
    while not checkpoint.exists():
        time.sleep(0.005)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
threading.Thread(target=limit, daemon=True).start()
sys.argv = ["pcr-run", *sys.argv[2:]]
from pcr_run.cli import main
sys.exit(main())
"""


INVALID = {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "eos_token_id": 1, "my_own": [1]}


@pytest.mark.parametrize("settings", [json.dumps(INVALID), None], ids=["invalid", "none"])
def test_generation_settings_are_written_back_as_they_came(untrained: Path, tmp_path: Path, settings) -> None:
    base = tmp_path / "base"
    shutil.copytree(untrained, base)
    (base / "generation_config.json").unlink(missing_ok=True)
    if settings:
        (base / "generation_config.json").write_text(settings)
    assert finish(tmp_path / "run", f"model.path={base}", "steps=1", "evaluation=none") == 0
    final = tmp_path / "run" / "final"
    saved = final / "generation_config.json"
    assert (saved.read_text() if saved.exists() else None) == settings
    assert AutoModelForCausalLM.from_pretrained(final).config.architectures


def test_a_model_that_cannot_be_saved_is_told_before_the_first_step(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, tokenizer = load(ModelConfig(path=str(untrained)))

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("this tokenizer has no file\nand more")

    monkeypatch.setattr(tokenizer, "save_pretrained", refuse)
    with pytest.raises(ConfigError, match=r"model\.path: .*this tokenizer has no file\);"):
        saving.rehearse(tmp_path, policy, tokenizer, None)
    assert list(tmp_path.iterdir()) == []
    assert policy.generation_config.eos_token_id is not None


@pytest.mark.parametrize(
    ("every", "keep", "there", "states"),
    [(0, 2, 0, 1), (1, 2, 0, 3), (1, 1, 0, 2), (1, 2, 2, 1), (10, 5, 0, 1), (3, 9, 0, 4), (1, 2, 3, 0)],
)
def test_a_disk_without_room_is_told_before_the_first_step(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, keep: int, there: int, states: int
) -> None:
    policy, _ = load(ModelConfig(path=str(untrained)))
    weights = sum(weight.nbytes for weight in policy.parameters())
    short = sum(weight.numel() for weight in policy.parameters() if weight.numel() >= 4096)  # embeddings, whole blocks
    for number in range(there):
        (tmp_path / "checkpoints" / f"step-{number:06d}").mkdir(parents=True)
    cfg = Config(steps=10, checkpoint=CheckpointConfig(every=every, keep=keep))
    eight_bits = weights + 2 * 4 * (weights // 4 - short) + int(2 * (1 + 4 / 256) * short)
    for cfg.learner.optimizer, state in (("adamw", 3 * weights), ("adamw8bit", eight_bits)):
        needed = weights + states * state + saving.SPARE
        for free, refused in ((needed, False), (needed - 1, True)):
            monkeypatch.setattr(saving.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            with pytest.raises(ConfigError, match="GB free") if refused else nullcontext():
                saving.check_room(cfg, tmp_path, policy, step=0)


def test_no_step_is_an_evaluation_and_a_result(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", "steps=0", "learner.schedule=constant") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    score = result["scores"]["math"]
    assert (result["status"], score["before"], score["difference"]) == ("complete", score["after"], 0.0)
    assert [line["step"] for line in records(tmp_path / "run", "evaluations")] == [0]
    assert (tmp_path / "run" / "final" / "config.json").exists()


def test_where_policy_and_reference_are_equal_there_is_no_alpha(whole: Path) -> None:
    first = [row for row in records(whole, "layers") if row["step"] == 1 and row["ss"] == 0]
    assert first
    assert {(row["alpha"], row["cos_pla_sta"]) for row in first} == {(None, None)}
    later = [row["alpha"] for row in records(whole, "layers") if row["step"] == STEPS]
    assert all(0 <= alpha <= 1 for alpha in later)
    assert 0 < records(whole, "metrics")[-1]["alpha"] < 1
