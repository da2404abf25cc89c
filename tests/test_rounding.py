"""How much of an update survives rounding."""

import pytest
import torch
from test_learner import batch, drift, llama, make

from pcr_run.learner.rounding import Survival


@pytest.mark.parametrize(
    ("dtype", "rate", "least", "most"),
    [
        (torch.float32, 1e-6, 0.99, 1.0),
        (torch.bfloat16, 1e-6, 0.0, 0.1),
        (torch.bfloat16, 1e-2, 0.9, 1.0),
        (torch.float32, 1e-12, 0.0, 0.1),
    ],
)
def test_an_update_that_is_lost_to_rounding_is_told(caplog, dtype, rate, least, most) -> None:
    torch.manual_seed(0)
    model = llama().to(dtype)
    learner = make(model, lr=rate)
    drift(model)
    metrics, _ = learner.update(batch(), step=1)
    learner.update(batch(), step=2)
    assert least <= metrics["weights_changed"] <= most
    assert sum("lost to rounding" in record.message for record in caplog.records) == (most <= 0.1)


def test_the_share_of_changed_weights_is_that_of_all_that_have_a_gradient() -> None:
    model = torch.nn.Linear(3, 4)
    survival = Survival(model)
    model.weight.grad = torch.tensor([[1.0, 0, 0]] * 4)
    survival.before()
    with torch.no_grad():
        model.weight[0, 0] += 1
        model.weight[:, 2] += 1  # weight decay moves weights without a gradient: not what is asked
    assert survival.share(1e-3) == 0.25
    model.weight.grad.zero_()
    survival.before()
    assert survival.share(1e-3) is None
