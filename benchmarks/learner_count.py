"""Operations that a step of a learner cannot do without, by count: what measured ratios are compared with."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from pcr_run.gradients import select


def weights(model: PreTrainedModel) -> dict[str, int]:
    """Weights of the backbone, of its MLPs alone, and of the head."""
    output, embedded = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    every = sum(p.numel() for p in model.parameters())
    parameters = dict(model.named_parameters())
    mlp = sum(parameters[name].numel() for name in select(model, "mlp"))
    apart = 0 if output is embedded else output.numel()
    return {"backbone": every - embedded.numel() - apart, "mlp": mlp, "head": output.numel()}


def useful(model: PreTrainedModel, data: Any) -> float:
    """2 for the reference and 6 for the policy, times weights times real tokens; the head's of responses only."""
    n = weights(model)
    return 8.0 * (n["backbone"] * data.real + n["head"] * data.sampled)


def needed(learner: str, model: PreTrainedModel, size: Any, data: Any) -> float:
    """Those of a learner by its name: useful ones, recomputation, for TRL padding, for PCR the second gradient.

    The second gradient of a token is another product for its cotangent in every layer, and one more for the gradient of
    the MLPs' weights; of responses without an advantage there is none. Norms and attention are not counted.
    """
    n, passes = weights(model), 10 if size.checkpointing else 8
    tokens, sampled = data.padded(size.rows) if learner == "trl" else (data.real, data.sampled)
    count = float(passes * n["backbone"] * tokens + 8 * n["head"] * sampled)
    return count + (2.0 * (n["backbone"] + n["mlp"]) * data.informative if learner.startswith("pcr") else 0.0)
