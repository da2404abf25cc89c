"""Sampling one step ahead of the learner: from which weights, when, and after an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from safetensors.torch import load_file

from pcr_run.configuration import compose
from pcr_run.configuration.check import check
from pcr_run.data import Completion, Item, Sampling, Score
from pcr_run.distributed.whole import Whole
from pcr_run.errors import ConfigError, Interrupted, RunError
from pcr_run.model import chat, load, lora
from pcr_run.records import result
from pcr_run.rollout import check_place, make_worker
from pcr_run.rollout.engine import EngineDeadError
from pcr_run.rollout.hf import HFWorker
from pcr_run.rollout.keeper import descendants
from pcr_run.rollout.vllm import VLLMWorker
from pcr_run.run import checkpoint
from pcr_run.run.ahead import Ahead
from pcr_run.run.loop import Experience, Question
from pcr_run.run.parts import make_tasks, training_questions
from pcr_run.run.run import run
from pcr_run.schema import Config, LoraConfig, RewardConfig, RolloutConfig
from pcr_run.seeds import derive, take

STEPS, P, G, LONGEST = 8, 2, 4, 8
QUESTIONS = [Question(Item(str(i), (), str(i)), [i]) for i in range(10)]


class Numbered:
    """Samples the number of the learner's update whose weights it was given, once it is allowed to go on."""

    def __init__(self) -> None:
        self.weights, self.given, self.closed = 0, -1, False
        self.go = threading.Event()

    @contextlib.contextmanager
    def synced(self, step: int) -> Iterator[dict[str, float]]:
        self.given = self.weights
        yield {"mismatch/canary": float(step)}

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int
    ) -> Iterator[dict[int, list[Completion]]]:
        given = self.given
        assert self.go.wait(10), "nobody went on"
        if self.closed:
            raise RunError("closed")
        yield {i: [Completion((given, i), (-0.1, -1 / 3), "stop")] * n for i in range(len(prompts))}

    def close(self) -> None:
        self.closed = True
        self.go.set()


class Judge:
    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[Score]:
        return [Score(float(i), "wrong", parts={"correctness": 1.0}) for i in range(len(items))]

    def close(self) -> None:
        pass


def plan(lag: int, worker: Numbered, steps: int = 4) -> Ahead:
    cfg = Config(
        seed=0,
        steps=steps,
        rollout=RolloutConfig(name="hf", prompts=P, group=G, lag=lag),
        reward=RewardConfig(name="verifier"),
    )
    return Ahead(cfg, QUESTIONS, worker, Judge(), str)


@pytest.mark.parametrize(("lag", "expected"), [(0, [0, 1, 2, 3]), (1, [0, 0, 1, 2])])
def test_each_step_is_sampled_from_the_weights_that_the_lag_says(lag: int, expected: list[int]) -> None:
    worker, found = Numbered(), []
    worker.go.set()
    with plan(lag, worker) as ahead:
        for step in range(1, 5):
            experience = ahead.take(step)
            found.append(experience.rollout.completions[0].token_ids[0])
            assert [item.id for item in experience.rollout.items] == [
                question.item.id for question in take(QUESTIONS, (step - 1) * P, P, 0)
            ]
            worker.weights += 1
        ahead.settle()
    assert found == expected
    assert not worker.closed


def test_it_samples_while_the_learner_works_and_the_loop_waits_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Numbered()
    worker.go.set()
    with plan(1, worker) as ahead:
        ahead.settle()  # nothing is on its way
        first = ahead.take(1)
        ahead.settle()
        worker.go.clear()
        ahead.take(2)  # returns although step 3 cannot be sampled yet
        coming = ahead.flights[3].coming

        def late() -> Experience:
            time.sleep(0.1)
            worker.go.set()
            return Future.result(coming)

        assert not coming.done()
        monkeypatch.setattr(coming, "result", late)
        third = ahead.take(3)
    assert set(first.clock.seconds) == set(third.clock.seconds) == {"sync", "rollout"}
    assert third.clock.seconds["rollout"] > 0.1
    assert third.collected["perf/ahead_seconds"] > 0
    assert third.collected["mismatch/canary"] == 3


def test_what_goes_wrong_on_the_way_is_told_where_the_loop_waits_for_it() -> None:
    worker = Numbered()
    worker.go.set()
    with plan(1, worker) as ahead:
        ahead.take(1)
        ahead.settle()
        worker.closed = True
        ahead.take(2)
        with pytest.raises(RunError, match="closed"):
            ahead.take(3)


def test_leaving_it_ends_what_is_on_its_way() -> None:
    worker = Numbered()
    worker.go.set()
    with contextlib.suppress(KeyError), plan(1, worker) as ahead:
        ahead.take(1)
        ahead.settle()
        worker.go.clear()
        ahead.take(2)
        raise KeyError
    assert worker.closed


def test_a_checkpoint_holds_what_is_on_its_way(tmp_path: Path) -> None:
    worker, other = Numbered(), Numbered()
    worker.go.set()
    other.go.set()
    with plan(1, worker) as ahead, plan(1, other) as resumed:
        assert ahead.state_dict(0) == {}
        ahead.take(1)
        assert ahead.state_dict(0)["step"] == 1  # interrupted before the update: it is begun again
        worker.weights = 1
        torch.save(ahead.state_dict(1), tmp_path / "state.pt")
        other.weights = 1
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for step in (2, 3):
            one, same = ahead.take(step), resumed.take(step)
            assert one.rollout == same.rollout
            assert one.rollout.completions[0].token_ids[0] == step - 2
            assert one.scores == same.scores
            assert one.sampled == same.sampled
            worker.weights = other.weights = step
        assert ahead.state_dict(4) == {}


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ((), r"rollout\.old_logprobs: learner takes samples of older weights .* right: engine"),
        (("rollout.old_logprobs=engine", "learner.kl=k3_corrected"), r"learner\.kl: .* right: exact"),
        (("rollout.old_logprobs=engine", "launch.nproc=2"), r"rollout\.lag: .* right: 0, or launch\.nproc=1"),
        (("rollout.old_logprobs=engine", "launch.offload=true"), r"rollout\.lag: .* without launch\.offload"),
        (("rollout.old_logprobs=engine", "++rollout.lag=2"), r"rollout\.lag: 2 is out of range"),
    ],
)
def test_what_a_lag_makes_wrong_is_refused(typed: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(config("rollout.lag=1", *typed))
    check(config("rollout.lag=1", "rollout.old_logprobs=engine"))


def test_a_gpu_in_turns_is_refused() -> None:
    for name in ("hf", "vllm"):
        with pytest.raises(ConfigError, match=r"rollout\.lag: 1 .* same GPU; give rollout\.gpus others"):
            check_place(RolloutConfig(name=name, lag=1), "cuda")
        check_place(RolloutConfig(name=name, lag=1, gpus="1"), "cuda")
        check_place(RolloutConfig(name=name, lag=1), "cpu")
        check_place(RolloutConfig(name=name), "cuda")


def config(*overrides: str) -> Config:
    compose.register()
    with initialize_config_module("pcr_run.conf", version_base="1.3"):
        return compose.to_config(hydra_compose("config", list(overrides)))


@pytest.fixture(scope="module")
def typed(untrained: Path, scorer: Path) -> list[str]:
    return [
        *(f"steps={STEPS}", f"rollout.prompts={P}", f"rollout.group={G}", f"rollout.max_new_tokens={LONGEST}"),
        *("rollout.lag=1", "rollout.old_logprobs=engine", "learner.microbatch=8", "learner.tokens=null"),
        *("evaluation.questions=2", "evaluation.n=1", "evaluation.every=4", "evaluation.cache=false"),
        *("checkpoint.every=1", f"checkpoint.keep={STEPS}", "learner.lr=1e-3", "tracker=none"),
        *(f"model.path={untrained}", "reward=model", f"reward.path={scorer}"),
    ]


@pytest.fixture(scope="module")
def whole(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole")
    assert run(config(*typed), directory)["status"] == "complete"
    return directory


def records(directory: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
    return [{key: v for key, v in line.items() if not key.startswith(("time/", "perf/"))} for line in lines]


def test_what_is_sampled_is_what_one_process_samples_from_the_weights_of_the_step_before(
    whole: Path, typed: list[str]
) -> None:
    cfg = config(*typed)
    model, tokenizer = load(cfg.model)
    questions = training_questions(cfg, chat(cfg.model, tokenizer), make_tasks(cfg)[0].train)
    worker = HFWorker(model, [tokenizer.eos_token_id], tokenizer.pad_token_id, cfg.rollout.batch)
    for step in range(2, STEPS + 1):
        state = checkpoint.load(whole / "checkpoints" / f"step-{step - 1:06d}")
        asked = [question.prompt for question in take(questions, (step - 1) * P, P, cfg.seed)]
        (part,) = worker.generate(asked, G, Sampling(1.0, 1.0, LONGEST), derive(cfg.seed, "rollout", step))
        found = [completion for p in range(P) for completion in part[p]]
        assert state["ahead"]["step"] == step
        assert state["ahead"]["ids"].tolist() == [i for one in found for i in one.token_ids]
        assert state["ahead"]["logprobs"].tolist() == [x for one in found for x in one.logprobs]
        checkpoint.load_weights(model, state["model"])  # those after step - 1: step + 1 is sampled from them


def test_the_first_step_is_on_policy_and_later_ones_are_not(whole: Path) -> None:
    off = [line["mismatch/mean"] for line in records(whole, "metrics")]
    assert off[0] < 1e-5
    assert all(each > 1e-4 for each in off[1:])


def await_step(directory: Path, step: int, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until a run has done so many steps."""
    metrics = directory / "metrics.jsonl"
    end = time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert alive()
        assert time.monotonic() < end
        time.sleep(0.01)


def samplers(above: int) -> list[int]:
    """The processes under another that sample, with their keepers first."""
    found = []
    for pid in descendants(above):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if "rollout.sampler" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def test_ended_in_any_way_it_goes_on_as_the_uninterrupted_one(whole: Path, typed: list[str], tmp_path: Path) -> None:
    """First the run gets a signal, then it is killed."""
    directory = tmp_path / "run"
    directory.mkdir()
    result.save_config(directory, config(*typed))

    def interrupt() -> None:
        await_step(directory, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupted(number: int, _: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, interrupted)
    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        run(config(*typed), directory)
    signal.signal(signal.SIGTERM, before)
    done = len(records(directory, "metrics"))
    assert 2 <= done < STEPS
    assert checkpoint.found(directory / "checkpoints")[0].name == f"step-{done:06d}"
    assert not samplers(os.getpid())
    command = [sys.executable, "-m", "pcr_run.cli", *typed, f"hydra.run.dir={directory}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await_step(directory, done + 1, lambda: process.poll() is None)
    tree = samplers(process.pid)
    assert len(tree) == 2
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while left := [pid for pid in tree if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert run(config(*typed), directory)["status"] == "complete"
    for name in ("metrics", "layers", "rollouts", "evaluations"):
        assert records(directory, name) == records(whole, name), name
    weights = [load_file(path / "final" / "model.safetensors") for path in (directory, whole)]
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())


def test_the_process_samples_through_an_adapter_and_its_errors_and_death_have_a_reason(
    typed: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    cfg, short = config(*typed), Sampling(1.0, 1.0, 4)
    model, tokenizer = load(cfg.model)
    lora.attach(model, LoraConfig(r=2), seed=0)
    worker = make_worker(cfg, Whole(model), tokenizer, [1], tmp_path, lambda _: None)
    try:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(generator=torch.Generator().manual_seed(1))
        with worker.synced(1), pytest.raises(RunError, match=r"^the process that samples: IndexError.*engine\.log$"):
            list(worker.generate([[10**6]], 1, short, 0))
        own = HFWorker(model, [tokenizer.eos_token_id], tokenizer.pad_token_id, 128)
        (one,), (same,) = (list(each.generate([[5, 6], [7]], 3, short, 0)) for each in (own, worker))
        for here, there in zip((*one[0], *one[1]), (*same[0], *same[1]), strict=True):
            assert here.token_ids == there.token_ids
            assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
        os.kill(samplers(os.getpid())[-1], signal.SIGKILL)
        with pytest.raises(RunError, match=r"^the process that samples is gone \(its process ended .*engine\.log$"):
            list(worker.generate([[5, 6]], 1, short, 0))
    finally:
        worker.close()


def test_an_engine_that_dies_is_not_started_again(tmp_path: Path) -> None:
    worker = VLLMWorker.__new__(VLLMWorker)
    worker.cfg, worker.log = config("rollout.lag=1"), tmp_path / "engine.log"
    worker.proved, worker.restarts = True, 0
    with pytest.raises(RunError, match=r"^the engine died \(killed\); with rollout\.lag=1 it is not started again"):
        worker._restart(EngineDeadError("killed"))


@pytest.mark.vllm
def test_vllm_samples_ahead(typed: list[str], tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from real_engine import EAGER, tiny

    cfg = config("rollout=vllm", EAGER, *typed, "evaluation=none", "steps=4", f"model.path={tiny(tmp_path / 'model')}")
    run(cfg, tmp_path)
    metrics = records(tmp_path, "metrics")
    assert all(line["mismatch/canary"] < 1e-4 for line in metrics)
    assert metrics[0]["mismatch/mean"] < 1e-4
    assert all(line["mismatch/mean"] > 1e-3 for line in metrics[1:])
