"""Token log-probs of a causal LM, from features and a head that is applied to a few tokens at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**25
"""Entries of the largest logits block (128 MiB in float32)."""


@dataclass(frozen=True)
class Policy:
    """A model seen as ``head(features(ids))``.

    ``features``: token ids [rows, T] -> [rows, T, d]; ``head``: [M, d] -> logits [M, V]. Where a model does more to its
    logits than one output projection, or its head is measured too, features are the logits and the head is the
    identity.
    """

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    head_parameters: list[nn.Parameter]
    vocabulary: int


@torch.no_grad()
def split(model: PreTrainedModel, whole: bool = False) -> Policy:
    """See ``model`` as a policy; ``whole`` keeps head and backbone in one graph.

    Whether the logits are the head's output is tried on a few tokens, since configs do not tell (soft caps, scales).
    """
    # Right-padded rows under causal attention need no mask: real tokens never see the padding.
    head, backbone = model.get_output_embeddings(), model.base_model

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits

    vocabulary = model.config.get_text_config().vocab_size
    if not whole and head is not None and backbone is not model:
        ids = torch.arange(6, device=model.device).view(2, 3) % vocabulary
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state
        if torch.allclose(head(hidden).float(), logits(ids).float(), rtol=1e-4, atol=1e-5):
            return Policy(
                lambda ids: backbone(input_ids=ids, use_cache=False).last_hidden_state,
                head,
                [p for p in head.parameters() if p.requires_grad],
                vocabulary,
            )
    return Policy(logits, lambda features: features, [], vocabulary)


def blocks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Slices of the tokens whose logits are made at once."""
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, tokens, size))


def token_logits(policy: Policy, features: Tensor, temperature: float) -> Tensor:
    """Logits [M, V] at the sampling temperature, in float32 or wider."""
    logits = policy.head(features)
    return (logits if logits.dtype == torch.float64 else logits.float()) / temperature


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs [M] of the target tokens [M] under logits [M, V]."""
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@torch.no_grad()
def logprobs(policy: Policy, ids: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Log-probs [M] of the tokens ``ids[mask]`` given what precedes them, in row-major order. ids, mask: [rows, T]."""
    features = policy.features(ids)[:, :-1][mask[:, 1:]]
    targets = ids[mask]
    parts = [
        token_logprobs(token_logits(policy, features[block], temperature), targets[block])
        for block in blocks(len(targets), policy.vocabulary)
    ]
    return torch.cat(parts) if parts else features.new_zeros(0)


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model without gradients, as a reference policy."""
    copied: PreTrainedModel = copy.deepcopy(model)
    return copied.requires_grad_(False).eval()


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout and router-jitter rate to 0: both gradients and the sampler must see one policy.

    Rates are module attributes in transformers (``dropout``, ``attention_dropout``, ``router_jitter_noise``, ...).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "jitter" in name):
                setattr(module, name, 0.0)
