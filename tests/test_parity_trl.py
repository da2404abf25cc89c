"""Loss, log-probs and the gradient of all parameters of TRL 1.16 and of ``resolver=none``, on one batch, in float32.

Run by ``make parity``; without TRL (the extra ``bench``) it is skipped. What differs by definition stands in
docs/method.md; here each side is told what it needs to compute the same.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

pytest.importorskip("trl", minversion="1.16")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.model.tiny import make_tokenizer
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig

P, G, PROMPT, RESPONSE, LONGEST, TEMPERATURE, BETA = 2, 4, 3, 6, 9, 0.7, 0.5
N = P * G
CLOSE = {"rtol": 2e-5, "atol": 2e-7}
CASES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "grpo": ({"loss_type": "grpo"}, {}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"aggregation": "constant"}),
    "bnpo": ({"loss_type": "bnpo"}, {"aggregation": "token_mean"}),
    "dapo": ({"loss_type": "dapo"}, {"aggregation": "token_mean"}),
    "clip_higher": ({"loss_type": "grpo", "epsilon_high": 0.28}, {"clip_high": 0.28}),
    "dual_clip": ({"loss_type": "grpo", "delta": 1.3}, {"dual_clip": 1.3}),
    "no_kl": ({"loss_type": "grpo", "beta": 0.0}, {"beta": 0.0}),
    "k3_corrected": ({"loss_type": "grpo", "use_bias_correction_kl": True}, {"kl": "k3_corrected"}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
        {"surrogate": "gspo", "clip_low": 0.05, "clip_high": 0.08},
    ),
    # TRL's epsilon_high is CISPO's bound itself, ours is above 1
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.2},
        {"surrogate": "cispo", "clip_low": 1.0, "clip_high": 0.2, "aggregation": "token_mean"},
    ),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    config = hf.Qwen2Config(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def moved(policy: nn.Module, scale: float) -> nn.Module:
    """A policy nearby."""
    other, g = copy.deepcopy(policy), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=scale)
    return other


class Drawn:
    """Prompts of one length, responses of several, advantages, and log-probs of all that TRL and we need."""

    def __init__(self, policy: nn.Module, reference: nn.Module) -> None:
        g = torch.Generator().manual_seed(3)
        self.ids = torch.randint(4, 60, (N, PROMPT + RESPONSE), generator=g)
        lengths = torch.randint(2, RESPONSE + 1, (N, 1), generator=g)
        self.mask = torch.arange(RESPONSE) < lengths
        self.advantages = torch.randn(N, generator=g)
        self.now, self.referred = logps(policy, self.ids), logps(reference, self.ids)
        self.old = self.now + 0.2 * torch.randn(N, RESPONSE, generator=g)
        self.off = 0.5 * torch.randn(N, RESPONSE, generator=g)  # the learner's old policy against the engine

    def theirs(self, tis: bool) -> dict[str, Tensor]:
        ones = torch.ones(N, PROMPT, dtype=torch.long)
        found = {
            "prompt_ids": self.ids[:, :PROMPT],
            "prompt_mask": ones,
            "completion_ids": self.ids[:, PROMPT:],
            "completion_mask": self.mask.long(),
            "advantages": self.advantages,
            "old_per_token_logps": self.old,
            "ref_per_token_logps": self.referred,
            "num_items_in_batch": self.mask.sum().float(),
        }
        return found | ({"importance_sampling_ratio": self.off.exp().clamp(max=1.5)} if tis else {})

    def wide(self, values: Tensor) -> Tensor:
        return torch.cat([torch.zeros(N, PROMPT), values * self.mask], 1)

    def ours(self) -> Batch:
        mask = torch.cat([torch.zeros(N, PROMPT, dtype=torch.bool), self.mask], 1)
        return Batch(self.ids, mask, self.wide(self.old - self.off), self.advantages, torch.ones(N), G)


@torch.no_grad()
def logps(policy: nn.Module, ids: Tensor) -> Tensor:
    logits = policy(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None])[..., 0]


def trainer(policy: nn.Module, directory: Path, **options: object) -> GRPOTrainer:
    policy.save_pretrained(directory)
    policy.config._name_or_path = str(directory)
    arguments = GRPOConfig(
        **(
            {
                "output_dir": str(directory),
                "beta": BETA,
                "epsilon": 0.2,
                "temperature": TEMPERATURE,
                "use_bias_correction_kl": False,
            }
            | options
        ),
        max_completion_length=LONGEST,
        per_device_train_batch_size=N,
        num_generations=G,
        gradient_accumulation_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    made = GRPOTrainer(
        model=policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * N}),
        processing_class=make_tokenizer(),
    )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


@pytest.mark.parametrize("tis", [False, True], ids=["", "tis"])
@pytest.mark.parametrize("name", CASES)
def test_trl_and_the_plain_learner_agree(name: str, tis: bool, tmp_path: Path) -> None:
    options, learner_options = CASES[name]
    reference = model()
    policy = moved(reference, 0.02)
    data = Drawn(policy, reference)

    their_policy = copy.deepcopy(policy)
    made = trainer(their_policy, tmp_path, **options)
    made.use_vllm = tis  # where the ratio to the engine counts
    loss = made._compute_loss(made.model, data.theirs(tis))
    loss.backward()
    their_logps, *_ = made._get_per_token_logps_and_entropies(made.model, data.ids, torch.ones_like(data.ids), RESPONSE)
    torch.testing.assert_close(their_logps.detach(), data.now, **CLOSE)

    beta = float(learner_options.get("beta", BETA))  # type: ignore[arg-type]
    # Of one update alone the policy is its own old one; at a rate of 0 two are the same, and have a ratio.
    plain = {"beta": beta, "max_grad_norm": None, "microbatch": G, "epochs": 2, "lr": 0.0}
    cfg = LearnerConfig(**(plain | learner_options))  # type: ignore[arg-type]
    rollout = RolloutConfig(
        name="hf",
        temperature=TEMPERATURE,
        max_new_tokens=LONGEST,
        old_logprobs="engine",
        importance_cap=1.5,
    )
    mine = Learner(
        copy.deepcopy(reference), cfg, ResolverConfig(name="none"), MeasureConfig(), steps=1, rollout=rollout
    )
    mine.model.load_state_dict(policy.state_dict())
    old = data.wide(data.old)
    torch.testing.assert_close(
        mine._old_logprobs(data.ours(), data.ours().lengths)[:, PROMPT:], data.now * data.mask, **CLOSE
    )
    mine._old_logprobs = lambda *_: old  # type: ignore[method-assign]
    given = data.ours() if tis else dataclasses.replace(data.ours(), drawn=old)
    metrics, _ = mine.update(given, step=1)
    total = metrics["loss_pla"] + beta * metrics.get("loss_sta", 0.0)
    assert total == pytest.approx(loss.item(), rel=2e-5, abs=1e-7)
    if name != "no_kl":
        assert metrics["clip_fraction"] > 0
    theirs = dict(made.model.named_parameters())
    scale = max(p.grad.abs().max().item() for p in theirs.values())
    for key, weight in mine.model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[key].grad, rtol=1e-4, atol=2e-6 * scale)
