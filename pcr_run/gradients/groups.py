"""Which parameters a resolver acts on, and which of them share one decision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from pcr_run.errors import ConfigError

# The first path component that matches says what a parameter belongs to. Norms come first: names such as
# post_attention_layernorm mention the neighbour that they normalise.
KINDS = {
    "norm": re.compile(r"norm|^ln_|^ln\d?$", re.I),
    "mlp": re.compile(
        r"(^|_)(mlp|ffn|ff|moe|feed_?forward|experts?|densereludense)(_|$)|^(fc1|fc2|fc_in|fc_out)$|^intermediate$",
        re.I,
    ),
    "attention": re.compile(r"(^|_)(attn|attention|selfattention)(_|$)", re.I),
    "head": re.compile(r"^(lm_head|embed_out|output_projection|score)$"),
    "embedding": re.compile(r"embed|^(wte|wpe|word_embeddings)$", re.I),
}


@dataclass(frozen=True)
class Place:
    """Where a parameter sits: transformer block (None outside the blocks) and kind of module."""

    layer: int | None
    kind: str


def place(name: str) -> Place:
    """Read layer and kind off a parameter's name.

    >>> place("model.layers.3.mlp.up_proj.weight")
    Place(layer=3, kind='mlp')
    """
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    if any(KINDS["norm"].search(part) for part in parts):
        return Place(layer, "norm")
    for part in parts:
        for kind, pattern in KINDS.items():
            if pattern.search(part):
                return Place(layer, kind)
    return Place(layer, "other")


def select(model: nn.Module, modules: str = "mlp", pattern: str | None = None) -> list[str]:
    """Names of the trainable parameters that ``modules`` (or the regular expression ``pattern``) picks.

    Raises ConfigError when nothing matches.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if pattern is not None:
        chosen = [name for name in names if re.search(pattern, name)]
    elif modules == "all":
        chosen = names
    else:
        chosen = [name for name in names if place(name).kind == modules]
    if not chosen:
        key, wanted = ("resolver.pattern", pattern) if pattern is not None else ("resolver.modules", modules)
        sample = ", ".join(names[:1] + names[len(names) // 2 : len(names) // 2 + 3])
        raise ConfigError(
            key,
            f"'{wanted}' matches no trainable parameter of {type(model).__name__}; "
            f"set resolver.pattern to a regular expression on names such as {sample or '(none is trainable)'}",
        )
    return chosen


def group_name(name: str, granularity: str) -> str:
    """The group that a parameter belongs to, e.g. ``layers.3.mlp`` at granularity ``layer``."""
    if granularity == "tensor":
        return name
    if granularity == "global":
        return "global"
    where = place(name)
    return where.kind if where.layer is None else f"layers.{where.layer}.{where.kind}"


def group_index(names: Iterable[str], granularity: str) -> tuple[list[str], list[int]]:
    """Group names in order of appearance, and for each parameter the index of its group."""
    groups: dict[str, int] = {}
    index = [groups.setdefault(group_name(name, granularity), len(groups)) for name in names]
    return list(groups), index
