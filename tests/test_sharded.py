"""A learner in shards over 2 and 4 processes against one in a single process, in float64."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import transformers as hf
from conftest import KeepDouble
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from pcr_run.distributed import ranks
from pcr_run.distributed.shards import entire
from pcr_run.errors import RunError
from pcr_run.learner import share
from pcr_run.learner.batch import Batch, deal
from pcr_run.learner.learner import Learner
from pcr_run.learner.share import shares
from pcr_run.model import lora
from pcr_run.model.policy import split
from pcr_run.rollout import canary
from pcr_run.rollout.source import Source
from pcr_run.run import checkpoint, state
from pcr_run.schema import LearnerConfig, LoraConfig, MeasureConfig, ResolverConfig, RolloutConfig

P, G, T, V = 6, 4, 12, 23
N = P * G


def model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":  # its norms compute in float64 wherever they are recomputed
        gpt2 = hf.GPT2Config(vocab_size=V, n_embd=12, n_layer=2, n_head=2, n_positions=32)
        return hf.AutoModelForCausalLM.from_config(gpt2, dtype=torch.float64)
    config = hf.Qwen2Config(
        vocab_size=V,
        hidden_size=12,
        intermediate_size=18,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=kind == "tied",
    )
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64)


def batch(seed: int) -> Batch:
    """Responses of lengths 2 to 9; one group without an advantage."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (N, T), generator=generator)
    mask = torch.zeros(N, T, dtype=torch.bool)
    for i, length in enumerate(torch.randint(2, 10, (N,), generator=generator).tolist()):
        mask[i, 3 : 3 + length] = True
    advantages = torch.randn(P, G, generator=generator)
    advantages = (advantages - advantages.mean(1, keepdim=True)) * (torch.arange(P) != 2)[:, None]
    drawn = torch.randn(N, T, generator=generator) * 0.1 - 3
    return Batch(ids, mask, drawn * mask, advantages.flatten(), torch.ones(N), G)


def make(case: dict[str, Any]) -> Learner:
    case = dict(case)
    unit, modules, kind = case.pop("unit", "response"), case.pop("modules", "mlp"), case.pop("kind", "untied")
    resolver, rollout, space = case.pop("resolver", "pcr"), case.pop("rollout", {}), case.pop("space", "gradient")
    offload = case.pop("offload", False)
    options = {"beta": 0.5, "microbatch": 4, "lr": 1e-2, "max_grad_norm": 0.1, "kl": "k3", **case}
    policy = model(kind)
    if "lora" in case:
        lora.attach(policy, case["lora"], seed=0)
        for name, weight in policy.named_parameters():
            if "lora_B" in name:  # off its reference
                nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(4))
    return Learner(
        policy,
        LearnerConfig(**options),
        ResolverConfig(name=resolver, space=space),
        MeasureConfig(modules=modules, unit=unit, granularity="tensor"),
        steps=10,
        rollout=RolloutConfig(name="hf", temperature=0.7, max_new_tokens=9, **rollout),
        offload=offload,
    )


def learn(case: dict[str, Any], before: Path | None = None, after: Path | None = None) -> dict[str, Any]:
    """Two steps: metrics, table and weights; or the first, saved ``after`` it, or the second, from one ``before``.

    What was saved goes on bit for bit in as many processes.
    """
    with KeepDouble():
        learner = make(case)
        if before is not None:
            state.restore(learner, before / "step-000001")
        steps = (2,) if before else (1,) if after else (1, 2)
        found = [learner.update(batch(step), step) for step in steps]
        if after is not None:
            state.save(after, 1, learner, {}, 2)
            again = make(case)
            state.restore(again, after / "step-000001")
            assert again.update(batch(2), 2) == learner.update(batch(2), 2)
            for one, other in zip(weights(again).values(), weights(learner).values(), strict=True):
                assert torch.equal(one, other)
        merged = whole_and_merged(learner) if "lora" in case else {}
    return {
        "metrics": [metrics for metrics, _ in found],
        "rows": [row for _, rows in found for row in rows],
        "weights": weights(learner),
        "merged": merged,
    }


def hand(directory: Path) -> dict[str, Any]:
    """What an engine gets of a learner's weights, what its canary expects, and what ranks say of one that is out."""
    learner = make({"kind": "tied"})
    source, names = Source(learner.weights), []
    for block in source.blocks():
        assert all(isinstance(weight, DTensor) for weight in learner.model.parameters()) == ranks.together()
        names.append([name for name, _ in block])
    source.describe(directory)
    source.save(directory)
    with learner.weights.rest():
        expected = canary.expected(split(learner.model), range(16), learner.model.device)
    adapted = Source(make({"kind": "tied", "lora": LoraConfig(r=3, alpha=6.0)}).weights)
    merged = {name: weight.clone() for name, weight in adapted}
    agreed = canary.agreed([-1.0 - 0.2 * ranks.rank()], [-1.0], 1.0, 3)
    try:
        canary.agreed([-1.0 - ranks.rank()], [-1.0], 0.5, 3)
    except RunError as error:
        return {
            **{"names": names, "expected": expected, "agreed": agreed, "refused": str(error)},
            **{"merged": merged, "adapter": adapted.adapter()},
        }
    raise AssertionError("the second rank's engine is out")


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: entire(weight.detach()) for name, weight in learner.model.named_parameters()}


def whole_and_merged(learner: Learner) -> dict[str, torch.Tensor]:
    """What ``final/merged`` holds: of ranks, the first one writes it."""
    policy = learner.model
    held = state.whole_weights(policy)["state_dict"] if ranks.together() else dict(policy.named_parameters())
    held = ranks.everyones(held)[0]
    return {name: weight.detach() for name, weight in lora.merged(policy, lora.base(policy, held), held)}


def installed(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those whose packages are here."""
    missing = {package for package in ("peft",) if find_spec(package) is None}
    needed = {name: {"peft"} if "lora" in case else set() for name, case in cases.items()}
    return {name: case for name, case in cases.items() if not needed[name] & missing}


def learn_all(cases: dict[str, dict[str, Any]], **places: Path) -> dict[str, Any]:
    """``learn`` for each case, with a directory for each in ``places``."""
    return {name: learn(case, **{when: place / name for when, place in places.items()}) for name, case in cases.items()}


def learn_and_hand(cases: dict[str, dict[str, Any]], directory: Path) -> dict[str, Any]:
    return learn_all(cases) | {"handed": hand(directory)}


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "portable": {"engine": "portable"},
    "recomputed": {"gradient_checkpointing": True},
    "portable recomputed": {"kind": "gpt2", "engine": "portable", "gradient_checkpointing": True},
    "query": {"unit": "query"},
    "microbatch": {"unit": "microbatch", "microbatch": 2},
    "microbatch of groups": {"unit": "microbatch", "microbatch": 8},
    "split groups": {"microbatch": 2},
    "tokens": {"tokens": 20, "epochs": 2, "minibatches": 2, "gradient_checkpointing": True},
    "everything": {"modules": "all", "microbatch": 1},
    "everything, portable": {"modules": "all", "microbatch": 1, "engine": "portable", "unit": "query"},
    "tied": {"kind": "tied", "reference": "old", "epochs": 2},
    "exact, corrected": {"kl": "exact", "rollout": {"old_logprobs": "engine"}},
    "plain": {"resolver": "none", "modules": None},
    "preconditioned": {"space": "preconditioned", "tokens": 40},
    "preconditioned, portable": {"space": "preconditioned", "engine": "portable", "unit": "query"},
    "preconditioned, everything": {
        **{"space": "preconditioned", "kind": "tied", "modules": "all", "microbatch": 1, "unit": "microbatch"},
    },
    "preconditioned, split groups": {"space": "preconditioned", "microbatch": 2},
    "preconditioned, offloaded": {"space": "preconditioned", "offload": True, "tokens": 20, "modules": "all"},
    "sgd": {"optimizer": "sgd", "schedule": "linear", "lr": 1.0},
    "average": {"reference": "ema:0.25", "kind": "tied"},
    "renewed": {"reference": "every:2"},
    "offloaded": {"offload": True, "tokens": 20},
    "adapter, offloaded": {"lora": LoraConfig(r=3, alpha=6.0), "offload": True},
    "adapter, portable": {"lora": LoraConfig(r=1), "engine": "portable", "modules": "all", "kind": "gpt2"},
}


QUICK = (
    *("default", "portable", "query", "tokens", "sgd", "average", "adapter, offloaded"),
    *("preconditioned", "preconditioned, portable", "preconditioned, offloaded"),
)


@pytest.mark.parametrize(("count", "names"), [(2, QUICK), pytest.param(4, tuple(CASES), marks=pytest.mark.slow)])
def test_ranks_learn_what_one_process_learns(count: int, names: tuple[str, ...], tmp_path: Path) -> None:
    cases = installed({name: CASES[name] for name in names})
    found = processes.together(count, tmp_path, learn_and_hand, cases, tmp_path / "handed")
    close_to_whole([shared["handed"] for shared in found], tmp_path / "handed")
    for name, case in cases.items():
        alone = learn(case)
        for shared in found:
            close(shared[name], alone, name)


KEPT: dict[str, dict[str, Any]] = {
    "adamw": {"schedule": "linear"},
    "sgd": {"optimizer": "sgd", "schedule": "linear", "lr": 1.0},
    "average": {"reference": "ema:0.25", "kind": "tied"},
    "adapter": {"lora": LoraConfig(r=3, alpha=6.0)},
}


@pytest.mark.parametrize(("saving", "loading"), [(2, 1), (1, 2), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_a_checkpoint_goes_on_with_any_number_of_ranks(saving: int, loading: int, tmp_path: Path) -> None:
    cases, places = installed(KEPT), tmp_path / "checkpoints"
    for when, count in (("after", saving), ("before", loading)):
        directory = tmp_path / when
        directory.mkdir()
        work = partial(learn_all, **{when: places})
        found = [work(cases)] if count == 1 else processes.together(count, directory, work, cases)
    for name, case in cases.items():
        assert checkpoint.newest(places / name) == places / name / "step-000001"
        wanted = learn(case)
        rows = [row for row in wanted["rows"] if row["step"] == 2]
        for each in found:
            close(each[name], {**wanted, "metrics": wanted["metrics"][1:], "rows": rows}, f"{name}, resumed")
    written = places / "adamw" / "step-000001"
    for file in [file for file in written.rglob("*") if file.is_file() and file.name != "manifest.json"]:
        kept = file.read_bytes()
        file.write_bytes(kept[:-1])
        assert file.name in str(checkpoint.damage(written))
        file.write_bytes(kept)


def close_to_whole(found: list[dict[str, Any]], directory: Path) -> None:
    """What was handed on, a layer at a time, is the model."""
    whole = model("tied").eval()
    names = [name for name, _ in whole.named_parameters()]
    written = [load_file(file) for file in sorted(directory.glob("*.safetensors"))]
    assert [sorted(block) for block in written] == [sorted(block) for block in found[0]["names"]]
    assert all(torch.equal(block[name], whole.get_parameter(name)) for block in written for name in block)
    assert hf.AutoConfig.from_pretrained(directory).architectures == [type(whole).__name__]
    adapted = Source(make({"kind": "tied", "lora": LoraConfig(r=3, alpha=6.0)}).weights)
    for each in found:
        close(each["merged"], dict(adapted), "merged")
        close(each["adapter"], adapted.adapter(), "adapter")
        assert sorted(name for block in each["names"] for name in block) == sorted(names)
        assert [{name.split(".")[2] for name in block} for block in each["names"][:-1]] == [{"0"}, {"1"}]
        close(each["expected"], canary.expected(split(whole), range(16), torch.device("cpu")), "canary")
        assert each["agreed"] == pytest.approx(0.2 * (len(found) - 1))
        assert each["refused"].startswith("rank 1: before step 3 the engine's weights are not the learner's")


def close(found: Any, wanted: Any, where: str) -> None:
    """Numbers within 1e-9 of each other, all else equal."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key, value in wanted.items():
            close(found[key], value, f"{where}, {key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, value in enumerate(wanted):
            close(found[i], value, f"{where}, {i}")
    elif isinstance(wanted, float | torch.Tensor):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), rtol=1e-9, atol=1e-12, msg=where)
    else:
        assert found == wanted, where


def test_shares_are_whole_blocks_and_even() -> None:
    lengths = [9, 9, 1, 1, 5, 5, 4, 4, 3, 3]
    found = shares(lengths, 2, 2)
    assert sorted(row for rows in found for row in rows) == list(range(10))
    assert all(row ^ 1 in rows for rows in found for row in rows)
    assert [sum(lengths[row] for row in rows) for rows in found] == [24, 20]
    assert shares(lengths, 2, 1) == [list(range(10))]
    assert sorted(map(len, shares(lengths, 5, 3))) == [0, 5, 5]


@pytest.mark.parametrize(("budget", "cut"), [(40, False), (12, True)])
def test_ranks_work_on_one_group_at_a_time_where_groups_are_cut(
    monkeypatch: pytest.MonkeyPatch, budget: int, cut: bool
) -> None:
    lengths, group = [9, 8, 1, 1, 5, 5, 4, 4, 3, 3, 3, 3], 4
    dealt = partial(deal, rows=8, tokens=budget, most=12, packed=True)
    monkeypatch.setattr(ranks, "together", lambda: True)
    monkeypatch.setattr(ranks, "size", lambda: 3)
    plans = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        plans.append(share.own(lengths, [True] * 12, group, dealt, summed=True))
    assert sorted(row for plan in plans for part in plan for row in part.rows) == list(range(12))
    found = [[part.ends for part in plan] for plan in plans]
    assert found[0] == found[1] == found[2]
    if not cut:
        assert set(found[0]) == {None}
        return
    assert found[0].count(True) == 3
    at = 0
    for parts in zip(*plans, strict=True):
        assert {row // group for part in parts for row in part.rows} == {at}
        at += parts[0].ends
