"""The real engine: its log-probs, its samples, its weights after a sync."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import DEVICE
from real_engine import PROMPTS, config, mismatch, move, processes, sample, tiny, worker

from pcr_run.data import Completion, Sampling
from pcr_run.errors import ConfigError, RunError
from pcr_run.rollout import canary
from pcr_run.rollout.vllm import VLLMWorker

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMWorker]:
    """An engine for the tests that leave it as it is."""
    one = worker(tiny(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("run"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMWorker]:
    one = worker(tiny(tmp_path_factory.mktemp("untied"), tied=False), tmp_path_factory.mktemp("run"))
    yield one
    one.close()


def test_log_probs_are_those_of_the_learner_at_the_sampling_temperature(made: VLLMWorker) -> None:
    with made.synced(1):
        hot, cold = sample(made, 1, temperature=1.3), sample(made, 1, temperature=0.7)
    assert mismatch(made, hot, 1.3) < 1e-4
    assert mismatch(made, cold, 0.7) < 1e-4
    assert mismatch(made, hot, 1.0) > 1e-2


def test_a_response_ends_with_an_end_token_or_at_the_limit(made: VLLMWorker) -> None:
    usual = made.eos
    made.eos = list(range(0, 500, 7))  # so many that both happen
    try:
        with made.synced(1):
            ones = [one for group in sample(made, 2, n=8) for one in group]
    finally:
        made.eos = usual
    ends = set(range(0, 500, 7))
    assert {one.finish for one in ones} == {"stop", "length"}
    for one in ones:
        assert ends.isdisjoint(one.token_ids[:-1])
        assert (one.token_ids[-1] in ends) == (one.finish == "stop")
        assert len(one.token_ids) == len(one.logprobs) <= 24
        assert one.finish == "stop" or len(one.token_ids) == 24


def test_samples_follow_from_the_seed_and_differ_within_a_group(made: VLLMWorker) -> None:
    with made.synced(1):
        first, again, other = sample(made, 3), sample(made, 3), sample(made, 4)
    same = [a.token_ids == b.token_ids for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(same) / len(same) > 0.9  # rounding may differ with what else is in a batch
    assert first[0][0].token_ids != other[0][0].token_ids
    assert all(len({one.token_ids for one in group}) == 3 for group in first)


def test_greedy_sampling_gives_one_answer_n_times(made: VLLMWorker) -> None:
    with made.synced(1):
        groups = sample(made, 5, n=3, temperature=0.0)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        assert group[0] == group[1] == group[2]
        with torch.no_grad():
            best = made.model(torch.tensor([prompt], device=DEVICE)).logits[0, -1].argmax().item()
        assert group[0].token_ids[0] == best


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU there is no worker process beside the core")
def test_a_worker_that_is_asked_nothing_leaves_the_cores_to_the_learner(made: VLLMWorker) -> None:
    (pid,) = [pid for name, pid in processes(made).items() if "VLLM::Worker" in name]

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

    with made.synced(1):
        sample(made, 1)
        time.sleep(0.1)
        before = ticks()
        time.sleep(0.6)
        assert ticks() - before < 0.2 * os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("which", ["made", "untied"])
def test_after_a_sync_the_engine_samples_from_the_new_weights(which: str, request: pytest.FixtureRequest) -> None:
    engine: VLLMWorker = request.getfixturevalue(which)
    for step in range(2):
        move(engine.model)
        with engine.synced(step) as metrics:
            assert mismatch(engine, sample(engine, step)) < 1e-4
        assert metrics["mismatch/canary"] < 1e-4


@pytest.mark.parametrize("transfer", ["auto", "files"] if DEVICE.type == "cuda" else ["auto"])
def test_bfloat16_weights_arrive(tmp_path: Path, transfer: str) -> None:
    engine = worker(tiny(tmp_path / "model", tied=False), tmp_path, f"rollout.transfer={transfer}", dtype="bfloat16")
    try:
        move(engine.model)
        with engine.synced(1) as metrics:
            assert metrics["mismatch/canary"] < canary.TOLERANCE["bfloat16"]
            assert mismatch(engine, sample(engine, 1)) < canary.TOLERANCE["bfloat16"]
            move(engine.model)
            with pytest.raises(RunError, match="engine's weights are not the learner's"):
                engine._compare(engine._expected())
    finally:
        engine.close()


@pytest.mark.parametrize(
    "stale",
    ["embed_tokens", "self_attn.q_proj.weight", "self_attn.v_proj", "mlp.down", "layernorm", "norm.weight", "lm_head"],
)
def test_the_canary_sees_a_stale_weight_in_any_kind_of_layer(untied: VLLMWorker, stale: str) -> None:
    before = {name: p.detach().clone() for name, p in untied.model.named_parameters()}
    move(untied.model, stale)
    moved = {name: p.detach().clone() for name, p in untied.model.named_parameters() if stale in name}
    assert moved
    send = untied.transfer.send

    def forgetful() -> None:
        """Everything but these weights."""
        untied.model.load_state_dict({**untied.model.state_dict(), **{name: before[name] for name in moved}})
        send()
        untied.model.load_state_dict({**untied.model.state_dict(), **moved})

    untied.transfer.send = forgetful  # type: ignore[method-assign]
    try:
        with pytest.raises(RunError, match=r"before step 7 the engine's weights are not the learner's.*engine -\d"):
            untied.synced(7).__enter__()
    finally:
        untied.transfer.send = send  # type: ignore[method-assign]
    with untied.synced(8):
        pass


def test_more_prompts_than_fit_into_one_batch_of_tokens(tmp_path: Path) -> None:
    limits = ["rollout.max_prompt_tokens=40", "+rollout.engine.max_num_batched_tokens=64"]
    engine = worker(tiny(tmp_path / "model"), tmp_path, *limits)
    prompts = [[10 + (i * j) % 300 for j in range(25)] for i in range(1, 21)]
    try:
        with engine.synced(1):
            found: dict[int, list[Completion]] = {}
            for part in engine.generate(prompts, 3, Sampling(1.0, 1.0, 24), 1):
                found |= part
        assert [len(found[i]) for i in range(20)] == [3] * 20
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+rollout.engine.tensor_paralel_size=2"],
            "rollout.engine.tensor_paralel_size.*did you mean tensor_parallel_size",
        ),
        (["+rollout.engine.model=x"], "rollout.engine.model: is set by pcr-run; right: model.path"),
        (["+rollout.engine.logprobs_mode=raw_logits"], "rollout.engine.logprobs_mode: is set by pcr-run"),
    ],
)
def test_arguments_of_the_engine_are_known_ones(overrides: list[str], message: str) -> None:
    from pcr_run.configuration.check import check

    with pytest.raises(ConfigError, match=message):
        check(config(*overrides))
