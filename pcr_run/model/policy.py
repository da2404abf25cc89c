"""A causal LM as a policy: hidden states of rows of tokens, and a head that is applied to a few of them at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from pcr_run.model import fused, packing
from pcr_run.model.packing import Tokens
from pcr_run.ragged import Ragged

LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**27}
"""Entries of the largest block of logits, 128 and 512 MiB in float32. Each block reads and writes the gradient of the
head's own weights: on a GPU, which multiplies a hundred times as fast as a CPU, small blocks would wait for that."""


@dataclass(frozen=True)
class Policy:
    """A model seen as ``head(features(ids))``.

    ``features``: token ids [rows, T] -> [rows, T, d]; ``head``: [M, d] -> logits [M, V]. Where a model does more to its
    logits than one linear layer, or its head is measured too, features are the logits and the head is the identity.
    ``trained``: the head has weights to train. ``packed``: the model takes rows without padding.
    """

    features: Callable[..., Tensor]
    head: Callable[[Tensor], Tensor]
    trained: bool
    vocabulary: int
    packed: bool

    def hidden(self, tokens: Tokens) -> Float[Tensor, "tokens width"]:
        """Features of every token, given those before it in its row."""
        if self.packed:
            return self.features(**packing.inputs(tokens))[0]
        # Right-padded rows under causal attention need no mask: real tokens never see the padding.
        return tokens.rows.flat(self.features(input_ids=tokens.rows.pad(tokens.ids)))

    def seen(self, rows: Ragged) -> Ragged:
        """The rows as the model's modules see them in ``hidden``, padding included."""
        return rows if self.packed else Ragged((rows.longest,) * len(rows), rows.device)


@torch.no_grad()
def split(model: PreTrainedModel, whole: bool = False) -> Policy:
    """See ``model`` as a policy; ``whole`` keeps head and backbone in one graph.

    Whether the logits are the head's output is tried on a few tokens, since configs do not tell (soft caps, scales).
    """
    head, backbone = model.get_output_embeddings(), model.base_model
    vocabulary, packed = model.config.get_text_config().vocab_size, packing.enabled(model)

    def logits(input_ids: Tensor, **more: Tensor) -> Tensor:
        return model(input_ids=input_ids, use_cache=False, **more).logits

    def features(input_ids: Tensor, **more: Tensor) -> Tensor:
        return backbone(input_ids=input_ids, use_cache=False, **more).last_hidden_state

    if not whole and type(head) is nn.Linear and backbone is not model:
        ids = torch.arange(6, device=model.device).view(2, 3) % vocabulary
        seen: list[tuple[Tensor, Tensor]] = []
        handle = head.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
        found = logits(ids)
        handle.remove()
        # The head's output as it is, to the last bit: soft caps change small logits by little.
        if len(seen) == 1 and torch.equal(seen[0][1].float(), found.float()):
            hidden = features(ids)
            if hidden.shape == seen[0][0].shape and torch.allclose(hidden, seen[0][0], rtol=1e-4, atol=1e-5):
                return Policy(features, head, any(p.requires_grad for p in head.parameters()), vocabulary, packed)
    return Policy(logits, lambda features: features, False, vocabulary, packed)


def blocks(targets: Int[Tensor, " tokens"], vocabulary: int) -> Iterator[slice]:
    """Slices of the tokens whose logits are made at once."""
    size = max(1, LOGITS_AT_ONCE["cpu" if targets.device.type == "cpu" else "cuda"] // vocabulary)
    return (slice(start, start + size) for start in range(0, len(targets), size))


def token_logits(
    policy: Policy, features: Float[Tensor, "tokens width"], temperature: float
) -> Float[Tensor, "tokens vocabulary"]:
    """Logits at the sampling temperature, in float32 or wider."""
    logits = policy.head(features)
    return tempered(logits if logits.dtype == torch.float64 else logits.float(), temperature)


def tempered(values: Float[Tensor, "*shape"], temperature: float) -> Float[Tensor, "*shape"]:
    """Divided by the temperature; at 1 the values themselves, since a pass over logits costs as much as any other."""
    return values if temperature == 1 else values / temperature


def token_logprobs(
    logits: Float[Tensor, "tokens vocabulary"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Log-probs of the target tokens."""
    return fused.on(logits.device, fused.target_logprobs)(logits, targets)


@torch.no_grad()
def sampled_logprobs(
    policy: Policy, tokens: Tokens, sampled: Int[Tensor, " sampled"], temperature: float
) -> Float[Tensor, " sampled"]:
    """Log-probs of the tokens at the indices ``sampled``, given what precedes each of them in its row."""
    features, targets = policy.hidden(tokens)[sampled - 1], tokens.ids[sampled]
    parts = [
        token_logprobs(token_logits(policy, features[block], temperature), targets[block])
        for block in blocks(targets, policy.vocabulary)
    ]
    return torch.cat(parts) if parts else features.new_zeros(0)


def logprobs(
    policy: Policy, ids: Int[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], temperature: float
) -> Float[Tensor, " sampled"]:
    """Log-probs of the tokens ``ids[mask]`` given what precedes them, in row-major order."""
    tokens = Tokens.of(ids, [ids.shape[1]] * len(ids))
    return sampled_logprobs(policy, tokens, mask.flatten().nonzero().flatten(), temperature)


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
