"""The real engine, on the GPU where there is one: its log-probs, weights after a sync, death and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_random
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from pcr_run import compose
from pcr_run.data import Completion, Sampling
from pcr_run.errors import ConfigError, RunError
from pcr_run.policy import logprobs, split
from pcr_run.rollout import canary
from pcr_run.rollout.keeper import descendants, shared_memory
from pcr_run.rollout.vllm import VLLMWorker

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm

PROMPTS = [[20, 30, 40, 50], [21, 31, 41], [60, 61, 62, 63, 64, 65], [9]]
PROBE = list(range(10, 42))
EAGER = "rollout.engine.enforce_eager=true"  # starts sooner; the kernels are the same
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHARE = (
    ["++rollout.engine.kv_cache_memory_bytes=268435456"] if DEVICE.type == "cuda" else []
)  # several engines at a time


def tiny(directory: Path, tied: bool = True, heads: int = 2) -> Path:
    """A model with random weights large enough that its log-probs say something."""
    return save_random(
        Qwen2ForCausalLM,
        directory,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=heads,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )


def config(*overrides: str) -> Any:
    compose.register()
    with initialize_config_module("pcr_run.conf", version_base="1.3"):
        return compose.to_config(hydra_compose("config", ["rollout=vllm", EAGER, *SHARE, *overrides]))


def worker(path: Path, run: Path, *overrides: str, dtype: str = "float32") -> VLLMWorker:
    cfg = config(f"model.path={path}", f"model.dtype={dtype}", "rollout.max_new_tokens=24", *overrides)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(DEVICE)
    eos = AutoTokenizer.from_pretrained(path).eos_token_id
    return VLLMWorker(cfg, model, [eos], PROBE, run, lambda _: None)


def sample(made: VLLMWorker, seed: int, n: int = 3, temperature: float = 1.0) -> list[list[Completion]]:
    found: dict[int, list[Completion]] = {}
    for part in made.generate(PROMPTS, n, Sampling(temperature, 1.0, 24), seed):
        found |= part
    return [found[i] for i in range(len(PROMPTS))]


def mismatch(made: VLLMWorker, groups: list[list[Completion]], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probs and those of the learner for the same tokens."""
    policy, worst = split(made.model), 0.0
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            ids = torch.tensor([[*prompt, *one.token_ids]], device=DEVICE)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            mask[:, len(prompt) :] = True
            learner = logprobs(policy, ids, mask, temperature).cpu()
            worst = max(worst, (learner - torch.tensor(one.logprobs)).abs().max().item())
    return worst


def move(model: torch.nn.Module, only: str = "", scale: float = 0.05) -> None:
    """What an optimizer does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise.to(parameter.device, parameter.dtype))


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
                engine._check()
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


def processes(made: VLLMWorker) -> dict[str, int]:
    """Process ids of an engine's tree by their names."""
    assert made.engine is not None
    pids = [made.engine.keeper.pid, *descendants(made.engine.keeper.pid)]
    return {Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "): pid for pid in pids}


def orphaned() -> set[str]:
    """What lies in shared memory and belongs to no process (other engines may run on this machine)."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    used = {inode for pid in pids for inode in shared_memory(pid)}
    commands = ""
    for pid in pids:
        with contextlib.suppress(OSError):
            commands += Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    files = list(Path("/dev/shm").iterdir())
    return {file.name for file in files if file.stat().st_ino not in used and str(file) not in commands}


def nothing_new(before: set[str]) -> bool:
    """Whether what was left behind is gone, within seconds."""
    end = time.monotonic() + 10
    while orphaned() - before and time.monotonic() < end:
        time.sleep(0.1)
    return not orphaned() - before


def test_a_dead_engine_is_started_again_and_the_rest_of_the_step_redone(tmp_path: Path) -> None:
    before = orphaned()
    engine = worker(tiny(tmp_path / "model"), tmp_path, "rollout.restarts=1")
    move(engine.model)
    with engine.synced(1):
        expected = sample(engine, 1)
        core = next(pid for name, pid in processes(engine).items() if "EngineCore" in name)
        os.kill(core, signal.SIGKILL)
        found = sample(engine, 1)
        assert [one.token_ids for group in found for one in group] == [
            one.token_ids for group in expected for one in group
        ]
        assert mismatch(engine, found) < 1e-4
    with engine.synced(2) as metrics:
        assert metrics["perf/engine_restarts"] == 1
        tree = processes(engine)
        last = "VLLM::Worker" if DEVICE.type == "cpu" else "VLLM::EngineCore"  # which does the work itself on one GPU
        os.kill(next(pid for name, pid in tree.items() if last in name), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(RunError, match=r"died 2 times .*restarts=1.*engine\.log"):
            sample(engine, 1)
        assert time.monotonic() - start < 20
    engine.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in tree.values())
    assert nothing_new(before)


def test_what_the_engine_cannot_be_given_is_said_before_it_starts(tmp_path: Path) -> None:
    path = tiny(tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"rollout\.max_new_tokens: prompt and response may have \d+ tokens, the model takes 512"
    ):
        worker(path, tmp_path, "rollout.max_prompt_tokens=600")
    with pytest.raises(ConfigError, match=r"rollout\.engine\.max_model_len: 40 is below"):
        worker(path, tmp_path, "rollout.engine.max_model_len=40")


def test_an_engine_that_does_not_start_leaves_a_reason_and_nothing_else(tmp_path: Path) -> None:
    before = orphaned()
    with pytest.raises(RunError, match=r"vLLM does not start \(.*engine\.log"):
        worker(tiny(tmp_path / "model"), tmp_path, "++rollout.engine.kv_cache_memory_bytes=1000000000000000")
    with pytest.raises(RunError, match=r"did not start in 1 s \(rollout\.start_seconds\)"):
        worker(tiny(tmp_path / "model"), tmp_path, "rollout.start_seconds=1")
    assert nothing_new(before)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="attention on GPUs takes more sizes of heads")
def test_an_engine_that_dies_of_its_first_prompt_is_not_started_again(tmp_path: Path) -> None:
    before = orphaned()
    engine = worker(tiny(tmp_path / "odd", heads=4), tmp_path)
    with pytest.raises(
        RunError, match=r"died at its first prompt \(RuntimeError: Unsupported CPU attention.*head_dim=16"
    ):
        engine.synced(1).__enter__()
    engine.close()
    assert nothing_new(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind_a_run_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    before = orphaned()
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "pcr_run.cli", "rollout=vllm", EAGER, f"hydra.run.dir={run}", "steps=1000"),
        *(f"model.path={tiny(tmp_path / 'model')}", "evaluation=none", "tracker.wandb.mode=disabled", *SHARE),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 240
        while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.1)
        tree = list(descendants(process.pid))
        assert len(tree) >= 3  # keeper, server, core, and on the CPU a worker
        process.send_signal(number)
        code = process.wait(60)
    finally:
        process.kill()
    assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    end = time.monotonic() + 10
    while left := [pid for pid in tree if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert nothing_new(before)
    if number == signal.SIGTERM:
        assert json.loads((run / "result.json").read_text())["status"] == "interrupted"


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
    from pcr_run.check import check

    with pytest.raises(ConfigError, match=message):
        check(config(*overrides))
