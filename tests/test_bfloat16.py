"""Under autocast every way down gives the float32 gradients up to rounding; on a GPU these are its own kernels.

Variable-length attention, grouped products and the compiled softmax run on a GPU only; what each must give does not
depend on that.
"""

import pytest
import torch
import transformers as hf
from conftest import DEVICE
from torch import nn

from pcr_run.gradients.norms import products_of, sum_of_rows
from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.model import fused, packing
from pcr_run.ragged import Ragged
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig

P, G, V = 3, 4, 64


def policy() -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = hf.Qwen2Config(vocab_size=V, num_hidden_layers=3, **shape)
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(DEVICE)


def batch() -> Batch:
    """Ragged rows of 12 to 60 tokens, a third of the groups without an advantage."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(12, 61, (P * G,), generator=generator).tolist()
    ids, mask = torch.randint(V, (P * G, 60), generator=generator), torch.zeros(P * G, 60, dtype=torch.bool)
    for i, length in enumerate(lengths):
        mask[i, 6:length] = True
    advantages = torch.randn(P, G, generator=generator)
    advantages[0] = 0
    tensors = (ids, mask, torch.zeros(P * G, 60), advantages.flatten(), torch.ones(P * G))
    return Batch(*(tensor.to(DEVICE) for tensor in tensors), G)


def table(space: str = "gradient", autocast: bool = False, **options: object) -> dict[str, torch.Tensor]:
    """Columns over the MLP tensors, of one update of a policy that has left its reference.

    ``space``: of the resolver; its metric is that of a float32 update, at a rate that moves nothing.
    """
    model = policy()
    learner = Learner(
        model,
        LearnerConfig(beta=0.5, lr=1e-9, autocast=autocast and space == "gradient", **options),
        ResolverConfig(name="pcr", granularity="tensor", space=space),
        MeasureConfig(),
        steps=1,
        rollout=RolloutConfig(name="hf", max_new_tokens=54),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(0.1 * parameter.std().nan_to_num(1.0) * noise.to(DEVICE))
    if space == "preconditioned":
        learner.update(batch(), 1)
        learner.cfg.autocast = autocast
    _, rows = learner.update(batch(), 2)
    return {key: torch.tensor([row[key] for row in rows]) for key in ("pp", "ps", "ss", "var_pla", "var_sta")}


WAYS = {
    "portable, rows": {"engine": "portable"},
    "portable, tokens": {"engine": "portable", "tokens": 128},
    "twin, rows": {"engine": "twin", "microbatch": 4},
    "twin, tokens": {"engine": "twin", "tokens": 128},
    "twin, tokens, recomputed": {"engine": "twin", "tokens": 128, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def exact() -> dict[str, torch.Tensor]:
    return table(engine="portable")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_float32_table_up_to_rounding(exact, way) -> None:
    """Both gradients and both variances, so the second cotangent by itself too. bfloat16 has a unit of 0.4%."""
    found = table(autocast=True, **WAYS[way])
    scale = (exact["pp"] * exact["ss"]).sqrt()
    for key, values in exact.items():
        off = (found[key] - values).abs() / (scale if key == "ps" else values)
        assert off.max() < 0.05, (key, off)
        assert off.mean() < 0.02, (key, off)


def test_products_in_bfloat16_are_weighed_in_float32() -> None:
    found, wanted = (table("preconditioned", autocast, **WAYS["twin, tokens"]) for autocast in (True, False))
    for key in ("pp", "ss", "var_pla", "var_sta"):
        assert ((found[key] - wanted[key]).abs() / wanted[key]).max() < 0.05, key


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_float32_table_in_float32(exact, way) -> None:
    found = table(**WAYS[way])
    for key, values in exact.items():
        assert torch.allclose(found[key], values, rtol=2e-3, atol=2e-4 * float(values.abs().max())), key


def test_packed_rows_give_the_logits_of_each_row_up_to_rounding() -> None:
    model = policy().to(torch.bfloat16)
    plain = [model(input_ids=torch.arange(n, device=DEVICE)[None] % V).logits[0].float() for n in (9, 60, 1, 33)]
    assert packing.enable(model)
    rows = Ragged((9, 60, 1, 33), DEVICE)
    tokens = packing.Tokens(rows.positions % V, rows)
    packed = model(**packing.inputs(tokens), use_cache=False).logits[0].float()
    assert torch.allclose(packed, torch.cat(plain), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("lengths", [(7, 31, 1, 16), (8, 8, 8)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_ragged_rows_are_those_of_each_row(lengths, transposed) -> None:
    rows, generator = Ragged(lengths, DEVICE), torch.Generator().manual_seed(0)
    x, b = (torch.randn(sum(lengths), n, generator=generator).to(DEVICE, torch.bfloat16) for n in (32, 48))
    each = []
    for start, end in zip(rows.borders, rows.borders[1:], strict=False):
        left, right = (x, b) if transposed else (b, x)
        each.append(left[start:end].double().T @ right[start:end].double())
    found = products_of(x, b, rows, transposed).double()
    assert torch.allclose(found, torch.stack(each), rtol=0.02, atol=0.1)
    total, squares = sum_of_rows(x, b, rows, transposed, at_once=2)
    assert torch.allclose(total.double(), sum(each), rtol=0.02, atol=0.2)
    assert squares.item() == pytest.approx(sum(product.square().sum().item() for product in each), rel=0.02)


def test_the_softmax_of_a_block_is_that_of_float64() -> None:
    logits = 5 * torch.randn(33, 1000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    targets = torch.arange(33, device=DEVICE) * 30
    logp, entropy, probabilities = fused.on(DEVICE, fused.log_softmax)(logits, targets)
    exact = logits.double().log_softmax(-1)
    assert torch.allclose(logp.double(), exact.gather(-1, targets[:, None])[:, 0], atol=1e-4)
    assert torch.allclose(entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-4)
    assert torch.allclose(probabilities.double(), exact.exp(), atol=1e-6)
    assert torch.allclose(fused.on(DEVICE, fused.target_logprobs)(logits, targets), logp, atol=1e-5)
