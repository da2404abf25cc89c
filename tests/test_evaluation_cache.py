"""Measurements are kept by all that they depend on, come back to the last bit, and are made once."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from transformers import AutoModelForCausalLM

from pcr_run import model
from pcr_run.evaluation import Cache, MissingError, Piece, identity
from pcr_run.run.measuring import measured, subject
from pcr_run.schema import Config, ModelConfig

VALUE = {"pass@1": 0.1 + 0.2, "stderr": math.nan, "perplexity": math.inf, "correct": [1, 0, 3], "pass@k": {"1": 1e-300}}


def piece(measure: Any, name: str = "math", sampled: bool = False, **identity: Any) -> Piece:
    return Piece("tasks", (name,), lambda: identity, measure, sampled)


def never(_: Any) -> Any:
    raise AssertionError("measured again")


def entries(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.json"))


def test_a_value_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    cache = Cache({"weights": "a"}, tmp_path)
    one = piece(never, n=4)
    cache.put(one, VALUE)
    assert repr(cache.get(one)) == repr(VALUE)
    value, cached = cache.measured(one, partial(never, None))
    assert (repr(value), cached) == (repr(VALUE), True)


def test_what_a_value_depends_on_makes_another_entry(tmp_path: Path) -> None:
    one = Cache({"weights": "a"}, tmp_path)
    one.put(piece(never, n=4), VALUE)
    for cache, other in ((Cache({"weights": "b"}, tmp_path), piece(never, n=4)), (one, piece(never, n=5))):
        with pytest.raises(MissingError):
            cache.get(other)
    assert one.get(piece(never, name="the name is not part of it", n=4))["correct"] == [1, 0, 3]


def swapped(text: str) -> str:
    return text.replace('"correct": [1, 0, 3]', '"correct": [1, 1, 3]')


DAMAGE = [
    lambda text: "",
    lambda text: text[:-9],
    swapped,
    lambda text: "[]",
    lambda text: '{"value": 1}',
    lambda _: "\0",
]


@pytest.mark.parametrize("damage", DAMAGE, ids=["empty", "cut", "a changed number", "a list", "half", "no JSON"])
def test_a_damaged_entry_is_measured_again(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache({}, tmp_path)
    one = piece(never)
    cache.put(one, VALUE)
    (path,) = entries(tmp_path)
    assert damage(path.read_text()) != path.read_text()
    path.write_text(damage(path.read_text()))
    with caplog.at_level(logging.WARNING):
        assert cache.measured(one, lambda: 7) == (7, False)
    assert "measuring again" in caplog.text
    assert cache.get(one) == 7


def measure_slowly(count: Path, _: Any) -> int:
    with count.open("a") as log:
        log.write("x")
    time.sleep(0.3)
    return 7


def use(directory: Path, count: Path) -> None:
    (found,) = measured([piece(partial(measure_slowly, count))], None, 0, Cache({}, directory))  # type: ignore[arg-type]
    assert found.value == 7


def test_processes_that_want_it_at_once_measure_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=use, args=(tmp_path / "cache", tmp_path / "count")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "x"


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        (found,) = measured([piece(lambda _: 7)], None, 0, Cache({}, tmp_path / "file"))  # type: ignore[arg-type]
    assert (found.value, found.cached) == (7, False)
    assert "not kept: cannot write" in caplog.text


def test_no_worker_is_made_where_nothing_is_left_to_sample(tmp_path: Path) -> None:
    cache = Cache({}, tmp_path)
    both = [piece(never, sampled=True, a=1), Piece("perplexity", (), lambda: {"b": 2}, lambda worker: 2.5)]
    cache.put(both[0], VALUE)
    found = list(measured(both, partial(never, None), 0, cache))
    assert [(each.piece.label, each.cached) for each in found] == [("math", True), ("perplexity", False)]


def test_the_digest_of_weights_sees_every_bit_and_nothing_else(untrained: Path) -> None:
    made = AutoModelForCausalLM.from_pretrained(untrained)
    digest = identity.weights(made)
    assert identity.weights(AutoModelForCausalLM.from_pretrained(untrained).train()) == digest
    for name, tensor in made.state_dict().items():
        flat = tensor.view(-1)
        kept = flat[-1].clone()
        flat[-1] = torch.nextafter(kept, torch.tensor(math.inf))
        assert identity.weights(made) != digest, name
        flat[-1] = kept
    assert identity.weights(made) == digest
    made.config.rope_parameters["rope_theta"] += 1.0
    assert identity.weights(made) != digest
    assert identity.weights(AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.bfloat16)) != digest


def test_the_subject_knows_sampler_judge_and_code(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tokenizer = model.load(ModelConfig(path=str(untrained)))
    cfg = Config()
    cfg.rollout.name = "hf"
    chat = model.chat(cfg.model, tokenizer)
    before = subject(cfg, policy, chat)
    assert json.loads(json.dumps(before)) == before
    cfg.learner.lr = 0.5  # nothing that is measured before training depends on it
    cfg.reward.format = 1.0
    assert subject(cfg, policy, chat) == before
    cfg.rollout.batch += 1
    assert subject(cfg, policy, chat) != before
    cfg.rollout.batch -= 1
    cfg.sandbox.seconds += 1
    assert subject(cfg, policy, chat) != before
    cfg.sandbox.seconds -= 1
    monkeypatch.setattr(identity, "code", lambda: "another verifier")
    assert subject(cfg, policy, chat) != before


COMMAND = "steps=0 evaluation.questions=4 evaluation.n=2 rollout.max_new_tokens=8 +evaluation.text.documents=5"


def scores(directory: Path) -> dict[str, Any]:
    (line,) = (json.loads(text) for text in (directory / "evaluations.jsonl").read_text().splitlines())
    assert line.pop("time/evaluation") > 0
    return line


def test_a_run_finds_what_another_measured_bit_for_bit(untrained: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PCR_RUN_CACHE", str(tmp_path / "cache"))

    def run(name: str, *more: str) -> dict[str, Any]:
        arguments = [*COMMAND.split(), "tracker=none", "tracker.report=false", f"model.path={untrained}", *more]
        assert in_process.run(*arguments, f"hydra.run.dir={tmp_path / name}") == 0
        return scores(tmp_path / name)

    first = run("first")
    assert "perf/cached" not in first
    second = run("second", "resolver=none", "learner.lr=0.1", "rollout.prompts=8")
    assert second.pop("perf/cached") == ["math", "code", "perplexity"]
    assert second == first == run("third", "evaluation.cache=false")
    fourth = run("fourth", "evaluation.tasks.code.n=3")
    assert fourth.pop("perf/cached") == ["math", "perplexity"]
    assert fourth["tasks"]["math"] == first["tasks"]["math"]
    assert fourth["tasks"]["code"]["n"] == 3
