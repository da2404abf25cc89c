"""Rows of different lengths without padding: one after the other in a single row, attention within each of them.

A model takes packed rows if its attention goes through the interface of transformers, where ours stands in front of
the configured one, and if it does nothing else that mixes tokens. Whether that is so is tried: no list of names tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pcr_run.ragged import Ragged, taken

log = logging.getLogger(__name__)
PREFIX = "packed_"
HARMLESS = ("position_ids", "cache_position", "position_embeddings", "use_cache", "output_attentions", "layer_idx")
"""What attention may be told beside queries, keys and values without changing what it computes."""


class CannotPackError(Exception):
    """The model's attention does more than our packed one."""


@dataclass(frozen=True)
class Tokens:
    """Rows of token ids, one after the other: ``ids`` [M] of ``rows``."""

    ids: Int[Tensor, " tokens"]
    rows: Ragged

    @classmethod
    def of(cls, ids: Int[Tensor, "rows length"], lengths: Sequence[int]) -> Tokens:
        """From right-padded rows."""
        rows = Ragged(tuple(lengths), ids.device)
        return cls(ids.flatten()[rows.within(ids.shape[1])], rows)


class Borders(Tensor):
    """Where packed rows begin and end [1, 1, 1, R + 1], int32, in the place of an attention mask.

    transformers hands a mask of four dimensions on to every layer's attention as it is, recomputed layers included.
    """

    rows: Ragged

    @staticmethod
    def of(rows: Ragged) -> Borders:
        """Of some rows, on their device."""
        borders = rows.ends.view(1, 1, 1, -1).as_subclass(Borders)
        borders.rows = rows
        return borders


@dataclass(frozen=True)
class Windows:
    """Windows of attention, in tokens, that masks were asked for and that layers said they have."""

    masks: set[int] = field(default_factory=set)
    layers: set[int] = field(default_factory=set)


def enable(model: PreTrainedModel) -> bool:
    """Put our attention in front of the model's and try it; whether packed rows give what padded ones do.

    Where they do not, the model is left as it was, and the log says why.
    """
    if enabled(model):
        return True
    before, windows = model.config._attn_implementation, Windows()
    model.config._attn_implementation = _register(before, windows)
    reason = _difference(model, windows)
    if reason is None:
        log.info("rows are packed: no padding (attention %s)", before)
        return True
    model.config._attn_implementation = before
    log.info("rows are padded: %s cannot take packed ones (%s)", type(model).__name__, reason)
    return False


def enabled(model: PreTrainedModel) -> bool:
    """Whether ``enable`` has found that the model takes packed rows."""
    return str(model.config._attn_implementation).startswith(PREFIX)


def inputs(tokens: Tokens) -> dict[str, Tensor]:
    """Keyword arguments of a model's forward for packed rows."""
    return {
        "input_ids": tokens.ids[None],
        "position_ids": tokens.rows.positions[None],
        "attention_mask": Borders.of(tokens.rows),
    }


@torch.no_grad()
def _difference(model: PreTrainedModel, windows: Windows) -> str | None:
    """Why packed rows do not give what padded ones do; None if they do."""
    vocabulary = model.config.get_text_config().vocab_size
    rows = Ragged((5, 3, 4), model.device)
    tokens = Tokens(torch.arange(12, device=model.device) % vocabulary, rows)
    padded = rows.flat(model(input_ids=rows.pad(tokens.ids), use_cache=False).logits).float()
    try:
        packed = model(**inputs(tokens), use_cache=False).logits[0].float()
    except (CannotPackError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    if not windows.masks <= windows.layers:  # a window that only its mask knows: these rows are too short to tell
        return "it attends to a part of a row that its layers do not name"
    tolerance = 0.05 if model.dtype in (torch.bfloat16, torch.float16) else 1e-4
    # Token by token and over the whole vocabulary: single logits near 0 are off by more than their size in bfloat16.
    if packed.shape != padded.shape or not ((packed - padded).norm(dim=-1) <= tolerance * padded.norm(dim=-1)).all():
        return "its logits are others"
    return None


def _register(base: str, windows: Windows) -> str:
    """Make ``packed_<base>`` known to transformers; ``base`` where that goes around its interface."""
    attention = ALL_ATTENTION_FUNCTIONS.get(base)
    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(base)
    if attention is None or mask is None:
        return base
    name = PREFIX + base

    def make_mask(*arguments: Any, local_size: int | None = None, **more: Any) -> Any:
        if local_size is not None:
            windows.masks.add(local_size)
        return mask(*arguments, local_size=local_size, **more)

    AttentionInterface.register(name, _dispatch(attention, windows))
    AttentionMaskInterface.register(name, make_mask)
    return name


def _dispatch(base: Callable[..., Any], windows: Windows) -> Callable[..., Any]:
    """Packed attention where the mask is ``Borders``, ``base`` elsewhere.

    A compiled layer is cut here: compiled with its borders, it would be compiled again for each set of lengths.
    """

    @torch.compiler.disable
    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        if not isinstance(attention_mask, Borders):
            return base(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)
        causal, window = more.pop("is_causal", None), more.pop("sliding_window", None)
        other = [name for name, given in more.items() if not (given is None or given is False or name in HARMLESS)]
        if other or dropout or causal is False or not getattr(module, "is_causal", True):
            raise CannotPackError(f"attention with {', '.join(other) or 'dropout, or not causal'}")
        if window is not None:
            windows.layers.add(window)
        return packed_attention(query[0], key[0], value[0], attention_mask, scaling, window)[None], None

    return attention


def packed_attention(
    query: Float[Tensor, "heads tokens size"],
    key: Float[Tensor, "groups tokens size"],
    value: Float[Tensor, "groups tokens value_size"],
    borders: Borders,
    scaling: float | None,
    window: int | None = None,
) -> Float[Tensor, "tokens heads value_size"]:
    """Causal attention within each row; ``groups`` heads of keys and values serve ``heads`` of queries.

    ``window``: only the last so many tokens, its own among them. torch's variable-length kernel in half precision on a
    GPU, else torch's ordinary one on rows of like length, padded: only attention sees padding there.
    """
    rows, grouped = borders.rows, len(query) != len(key)
    q, k, v = (computed(x.transpose(0, 1)) for x in (query, key, value))
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = borders.flatten().as_subclass(Tensor), rows.longest
        reach = (-1 if window is None else window - 1, 0)
        out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=reach, enable_gqa=grouped)
        assert isinstance(out, Tensor)
        return out
    blocks, back = rows.alike
    parts = []
    for where, block in blocks:
        a, b, c = (taken(x, where) for x in (q, k, v))
        parts.append(_padded_attention(a, b, c, block, scaling, window, grouped))
    return torch.cat(parts).index_select(0, back)


def computed(x: Tensor) -> Tensor:
    """As autocast hands it to torch's ordinary attention; of other kernels it knows nothing.

    Rotary embeddings of float32 weights give float32 queries and keys, beside values in half precision.
    """
    device = x.device.type
    rounds = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(device)) if rounds else x


def _padded_attention(
    q: Float[Tensor, "tokens heads size"],
    k: Float[Tensor, "tokens groups size"],
    v: Float[Tensor, "tokens groups value_size"],
    rows: Ragged,
    scaling: float | None,
    window: int | None,
    grouped: bool,
) -> Float[Tensor, "tokens heads value_size"]:
    """Rows of like length, padded to their longest."""
    q, k, v = (rows.pad(x).transpose(1, 2) for x in (q, k, v))
    if window is None or window >= rows.longest:
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
    else:
        place = torch.arange(rows.longest, device=q.device)
        distance = place[:, None] - place
        near = (distance >= 0) & (distance < window)
        out = scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scaling, enable_gqa=grouped)
    return rows.flat(out.transpose(1, 2))
