"""The learner's gradient against autograd of the written objective, in float64; on the GPU where there is one."""

import copy
import dataclasses
import math

import pytest
import torch
import transformers as hf
from conftest import DEVICE
from torch import nn

from pcr_run.errors import ConfigError, RunError
from pcr_run.gradients.groups import group_name, select
from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.learner.schedule import schedule
from pcr_run.model.policy import sampled_logprobs, split
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig

pytestmark = pytest.mark.usefixtures("float64_throughout")
P, G, T, V, TEMPERATURE, BETA = 2, 3, 8, 23, 0.7, 0.5
N = P * G


def llama(**more: object) -> nn.Module:
    config = hf.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **more
    )
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64).to(DEVICE)


def gemma2() -> nn.Module:
    config = hf.Gemma2Config(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=2.0,
    )
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64).to(DEVICE)


def gpt2() -> nn.Module:
    config = hf.GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32)  # dropout 0.1
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64).to(DEVICE)


def make(
    model: nn.Module,
    resolver: str = "none",
    measure: str | None = None,
    rollout: RolloutConfig | None = None,
    **learner: object,
) -> Learner:
    options = {"beta": BETA, "max_grad_norm": None, "microbatch": G, "lr": 1e-3, **learner}
    return Learner(
        model,
        LearnerConfig(**options),  # type: ignore[arg-type]
        ResolverConfig(name=resolver, alpha=0.0 if resolver == "fixed" else 0.5),
        MeasureConfig(modules=measure),
        steps=10,
        rollout=rollout or RolloutConfig(name="hf", temperature=TEMPERATURE, max_new_tokens=6),
    )


def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(V, (N, T), generator=generator)
    mask = torch.zeros(N, T, dtype=torch.bool)
    for i in range(N):
        mask[i, 2 + i % 2 : 5 + i % 4] = True
    advantages = torch.randn(N, generator=generator)
    advantages[:G] -= advantages[:G].mean()
    tensors = (ids, mask, torch.zeros(N, T), advantages, torch.ones(N))
    return Batch(*(tensor.to(DEVICE) for tensor in tensors), G)


def drift(model: nn.Module, scale: float = 0.05) -> None:
    """Move the policy off its reference."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise.to(parameter.device), alpha=scale)


def written(
    model: nn.Module, reference: nn.Module, data: Batch, kl: str, rows: slice = slice(None)
) -> list[torch.Tensor]:
    """L_pla and L_sta on policy as the paper writes them (Eq. 1-6), from whole logits."""
    ids, mask = data.ids[rows], data.mask[rows]

    def logps(m: nn.Module) -> torch.Tensor:
        return (m(input_ids=ids, use_cache=False).logits[:, :-1] / TEMPERATURE).log_softmax(-1)

    new = logps(model)
    with torch.no_grad():
        ref = logps(reference)
    chosen = ids[:, 1:, None]
    logp, ref_logp = new.gather(-1, chosen)[..., 0], ref.gather(-1, chosen)[..., 0]
    ratio = (logp - logp.detach()).exp()
    tokens = {
        "k1": logp - ref_logp,
        "k2": (logp - ref_logp) ** 2 / 2,
        "k3": (ref_logp - logp).exp() - (ref_logp - logp) - 1,
        "exact": (new.exp() * (new - ref)).sum(-1),
    }[kl]
    counts = mask[:, 1:].double()
    mean = counts / counts.sum(1, keepdim=True) / len(ids)
    return [-(mean * ratio * data.advantages[rows, None]).sum(), (mean * tokens * data.kl[rows, None]).sum()]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kl", ["k1", "k2", "k3", "exact"])
@pytest.mark.parametrize("build", [llama, gemma2, gpt2])
def test_the_plain_gradient_is_that_of_the_written_objective(build, kl: str) -> None:
    torch.manual_seed(0)
    model = build()
    learner = make(model, kl=kl)
    drift(model)
    reference, clone = copy.deepcopy(learner.reference), copy.deepcopy(model)
    metrics, rows = learner.update(batch(), step=1)
    pla, sta = written(clone, reference, batch(), kl)
    (pla + BETA * sta).backward()
    found = gradients(model)
    for name, gradient in gradients(clone).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13)
    assert metrics["loss_pla"] == pytest.approx(pla.item(), rel=1e-6)
    assert metrics["loss_sta"] == pytest.approx(sta.item(), rel=1e-6)
    assert rows == []


@pytest.mark.parametrize("kl", ["k3", "exact"])
@pytest.mark.parametrize("build", [llama, gemma2])
def test_pcr_steps_on_its_equation(build, kl: str) -> None:
    torch.manual_seed(0)
    model = build()
    learner = make(model, "pcr", kl=kl)
    drift(model)
    reference, clone = copy.deepcopy(learner.reference), copy.deepcopy(model)
    _, rows = learner.update(batch(), step=1)
    pla, sta = written(clone, reference, batch(), kl)
    names = [name for name, _ in clone.named_parameters()]
    g_pla, g_sta = (
        dict(zip(names, torch.autograd.grad(loss, list(clone.parameters()), retain_graph=True), strict=True))
        for loss in (pla, sta)
    )
    assert [row["group"] for row in rows] == ["layers.0.mlp", "layers.1.mlp"]
    found = gradients(model)
    mlp = set(select(model, "mlp"))
    for row in rows:
        members = [name for name in names if name in mlp and group_name(name, "layer") == row["group"]]
        ps = sum((g_pla[name] * g_sta[name]).sum().item() for name in members)
        ss = sum(g_sta[name].square().sum().item() for name in members)
        alpha = row["var_pla"] / (row["var_pla"] + row["var_sta"])
        b = BETA - alpha * ps / ss if ps < 0 else BETA
        assert row["b"] == pytest.approx(b, rel=1e-9)
        for name in members:
            torch.testing.assert_close(found[name], g_pla[name] + b * g_sta[name], rtol=1e-9, atol=1e-13)
    for name in set(names) - mlp:
        torch.testing.assert_close(found[name], g_pla[name] + BETA * g_sta[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("measure", ["mlp", "all"])
@pytest.mark.parametrize(
    "options", [{}, {"microbatch": 1}, {"microbatch": N}, {"gradient_checkpointing": True}, {"kl": "exact"}]
)
def test_measuring_leaves_the_plain_step_as_it_is(options: dict[str, object], measure: str) -> None:
    models = []
    for measured in (None, measure):
        torch.manual_seed(0)
        # GPT-2's norms keep float64 by themselves; recomputation happens outside of the fixture's reach
        model = gpt2() if "gradient_checkpointing" in options else llama(tie_word_embeddings=True)
        learner = make(model, measure=measured, **options)
        drift(model)
        _, rows = learner.update(batch(), step=1)
        assert bool(rows) == bool(measured)
        models.append(gradients(model))
    for name, gradient in models[0].items():
        torch.testing.assert_close(models[1][name], gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("resolver", ["none", "pcr"])
def test_samples_of_the_engine_are_weighted_by_truncated_importance(level: str, resolver: str) -> None:
    """Only the reward's part is weighted, on policy by min(pi / pi_engine, cap)."""
    torch.manual_seed(0)
    model, cap = llama(), 1.2
    rollout = RolloutConfig(
        name="vllm",
        temperature=TEMPERATURE,
        max_new_tokens=6,
        old_logprobs="engine",
        importance=level,
        importance_cap=cap,
    )
    learner = make(model, resolver, rollout=rollout)
    drift(model)
    reference, clone = copy.deepcopy(learner.reference), copy.deepcopy(model)
    data = batch()
    with torch.no_grad():
        logps = (clone(input_ids=data.ids, use_cache=False).logits[:, :-1] / TEMPERATURE).log_softmax(-1)
    logps = logps.gather(-1, data.ids[:, 1:, None])[..., 0]
    off = 0.3 * torch.randn(logps.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    off, drawn = off.to(DEVICE), torch.zeros(N, T, dtype=torch.float64, device=DEVICE)
    drawn[:, 1:] = logps - off
    counts = data.mask[:, 1:].double()
    exponent = off * counts if level == "token" else (off * counts).sum(1, keepdim=True).expand_as(off)
    weights = exponent.exp().clamp(max=cap)
    metrics, rows = learner.update(dataclasses.replace(data, drawn=drawn), step=1)

    logp = (clone(input_ids=data.ids, use_cache=False).logits[:, :-1] / TEMPERATURE).log_softmax(-1)
    logp = logp.gather(-1, data.ids[:, 1:, None])[..., 0]
    mean = counts / counts.sum(1, keepdim=True) / N
    pla = -(mean * weights * (logp - logp.detach()).exp() * data.advantages[:, None]).sum()
    sta = written(clone, reference, data, "k3")[1]
    found, names = gradients(model), [name for name, _ in clone.named_parameters()]
    g_pla, g_sta = (
        dict(zip(names, torch.autograd.grad(loss, list(clone.parameters()), retain_graph=True), strict=True))
        for loss in (pla, sta)
    )
    b = {row["group"]: row["b"] for row in rows}
    mlp = set(select(model, "mlp"))
    for name in names:
        share = b[group_name(name, "layer")] if name in mlp and rows else BETA
        torch.testing.assert_close(found[name], g_pla[name] + share * g_sta[name], rtol=1e-9, atol=1e-13)
    assert metrics["mismatch/truncated"] == pytest.approx(
        ((weights == cap) * counts).sum().item() / counts.sum().item()
    )
    assert metrics["mismatch/mean"] == pytest.approx((off.abs() * counts).sum().item() / counts.sum().item())
    assert metrics["mismatch/max"] == pytest.approx((off.abs() * counts).max().item())
    assert metrics["mismatch/kl"] == pytest.approx(((off.exp() - 1 - off) * counts).sum().item() / counts.sum().item())


def test_one_update_a_batch_takes_no_rounding_for_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's samples are weighted by log-probs of a pass of its own, whose rounding gspo's clip would act on."""
    monkeypatch.setattr("pcr_run.learner.learner.sampled_logprobs", lambda *given: 1.001 * sampled_logprobs(*given))
    rollout = RolloutConfig(name="vllm", temperature=TEMPERATURE, max_new_tokens=6, old_logprobs="engine")
    metrics, _ = make(llama(), rollout=rollout, surrogate="gspo").update(batch(), step=1)
    assert metrics["clip_fraction"] == 0.0


def test_responses_that_importance_takes_out_leave_no_gradient() -> None:
    """Rounding in the place of 0 would be an axis to rules that look at directions alone."""
    bounds = {"old_logprobs": "engine", "importance_mode": "mask", "importance_floor": 0.9}
    rollout = RolloutConfig(name="vllm", temperature=TEMPERATURE, max_new_tokens=6, **bounds)
    learner = make(model := llama(), "mgda", rollout=rollout)
    drift(model)
    metrics, rows = learner.update(batch(), step=1)  # which says that every token was certain
    assert metrics["mismatch/truncated"] == 1.0
    assert [(row["pp"], row["a"], row["b"]) for row in rows] == [(0.0, 1.0, BETA)] * 2


def test_inner_updates_clip_against_the_policy_that_sampled() -> None:
    """With a large learning rate the second pass over the batch must see ratios away from 1."""
    torch.manual_seed(0)
    learner = make(llama(), epochs=2, minibatches=2, lr=0.05)
    metrics, _ = learner.update(batch(), step=1)
    assert metrics["clip_fraction"] > 0
    assert learner.scheduler.last_epoch == 4


def test_minibatches_are_whole_groups_normalised_on_their_own() -> None:
    torch.manual_seed(0)
    model = llama()
    learner = make(model, minibatches=2, lr=0.0)
    drift(model)
    clone = copy.deepcopy(model)
    learner.update(batch(), step=1)
    pla, sta = written(clone, learner.reference, batch(), "k3", slice(G, N))
    (pla + BETA * sta).backward()
    found = gradients(model)
    for name, gradient in gradients(clone).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13)


def test_the_old_policy_as_reference_leaves_no_conflict_axis() -> None:
    torch.manual_seed(0)
    model = llama()
    learner = make(model, "pcr", reference="old")
    drift(model)
    metrics, rows = learner.update(batch(), step=1)
    assert all(row["ss"] == 0 and (row["a"], row["b"]) == (1.0, BETA) for row in rows)
    assert metrics["conflict_rate"] == 0
    assert all(math.isfinite(value) for value in metrics.values())


def test_without_beta_or_measuring_there_is_no_reference_pass() -> None:
    learner = make(llama(), beta=0.0)
    metrics, _ = learner.update(batch(), step=1)
    assert learner.reference is None
    assert "loss_sta" not in metrics


@pytest.mark.parametrize("resolver", ["none", "pcr"])
def test_a_gradient_that_is_not_finite_skips_the_step_and_in_the_end_stops(resolver: str) -> None:
    model = llama()
    learner = make(model, resolver, max_nonfinite=2)
    bad = batch()
    bad.advantages[0] = math.inf
    before = copy.deepcopy(model.state_dict())
    metrics, _ = learner.update(bad, step=1)
    assert metrics["nonfinite"] == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(RunError, match="max_nonfinite"):
        learner.update(bad, step=2)


def test_sgd_steps_along_the_gradient_itself() -> None:
    torch.manual_seed(0)
    model = llama()
    learner = make(model, "pcr", optimizer="sgd", lr=0.1, weight_decay=0.5)
    drift(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learner.update(batch(), step=1)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * (p.grad + 0.5 * before[name]), rtol=1e-12, atol=0)


def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = gpt2()
    make(model, gradient_checkpointing=True, engine="portable")
    assert model.training
    ids = batch().ids
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_the_clip_factor_is_what_the_clip_did() -> None:
    torch.manual_seed(0)
    model = llama()
    learner = make(model, max_grad_norm=1e-3)
    metrics, _ = learner.update(batch(), step=1)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients(model).values()))
    assert norm == pytest.approx(metrics["grad_norm"] * metrics["clip_factor"], rel=1e-6)
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_the_optimizer_step_is_compared_with_g_sta() -> None:
    """Under plain SGD-like conditions (first AdamW step) the step's sign is that of the gradient."""
    torch.manual_seed(0)
    model = llama()
    learner = make(model, "fixed", weight_decay=0.0)
    drift(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, rows = learner.update(batch(), step=1)
    for row in rows:
        names = [name for name in select(model, "mlp") if group_name(name, "layer") == row["group"]]
        reference = copy.deepcopy(model)
        reference.load_state_dict(before, strict=False)
        _, sta = written(reference, learner.reference, batch(), "k3")
        g_sta = torch.autograd.grad(sta, [dict(reference.named_parameters())[name] for name in names])
        step = torch.cat([(before[n] - dict(model.named_parameters())[n]).flatten() for n in names])
        flat = torch.cat([g.flatten() for g in g_sta])
        assert row["cos_step_sta"] == pytest.approx(torch.cosine_similarity(step, flat, dim=0).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.5]), ("cosine", [0.5, 1, 1, 0.5])],
)
def test_schedules_warm_up_and_decay(kind: str, factors: list[float]) -> None:
    factor = schedule(LearnerConfig(schedule=kind, warmup=0.5), updates=4)
    assert [factor(update) for update in range(4)] == pytest.approx(factors)


def test_state_goes_on_bit_for_bit() -> None:
    def fresh() -> Learner:
        torch.manual_seed(0)
        return make(llama(), "pcr", schedule="linear")

    whole = fresh()
    for step in (1, 2, 3):
        whole.update(batch(), step)
    first = fresh()
    first.update(batch(), 1)
    weights, state = copy.deepcopy(first.model.state_dict()), copy.deepcopy(first.state_dict())
    second = fresh()
    second.model.load_state_dict(weights)
    second.load_state_dict(state)
    for step in (2, 3):
        second.update(batch(), step)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_soft_capped_logits_are_noticed() -> None:
    torch.manual_seed(0)
    model = gemma2().eval()
    ids = batch().ids
    policy = split(model)
    torch.testing.assert_close(policy.head(policy.features(ids)), model(ids).logits)


@pytest.mark.parametrize("pattern", ["no_such_module", r"\.mlp\.none"])
def test_a_pattern_without_a_match_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"resolver\.pattern"):
        select(llama(), pattern=pattern)
