"""The memory that a run needs on each of the learner's GPUs, by formula: what tensors hold, not what allocators add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pcr_run.configuration.check.batch import measures
from pcr_run.model.card import Card
from pcr_run.schema import Config
from pcr_run.schema.learner import SMALL, STATES

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
LOGITS = 2**27
"""Entries of a block of logits on a GPU (``model.policy.LOGITS_AT_ONCE``); four of them are alive at once."""
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Part:
    """Bytes of one rank, for what and why; ``host``: in CPU memory, not on its GPU."""

    what: str
    size: float
    why: str
    host: bool = False


def parts(cfg: Config, card: Card, ranks: int, offload: bool) -> list[Part] | None:
    """What each of ``ranks`` processes holds; None where the model's shape is not known.

    Several GPUs share weights, gradients and the optimizer's state evenly (FSDP2), with ``offload`` in CPU memory; each
    has its own microbatches.
    """
    N, d, L = card.parameters, card.hidden, card.layers
    if N is None or d is None or L is None:
        return None
    learner = cfg.learner
    own = BYTES.get(cfg.model.dtype, 4)
    computed = 2 if learner.autocast else own
    wide = max(4, own)  # sums of gradients
    embeddings = (card.vocabulary or 0) * d
    of = "" if ranks == 1 else f", 1/{ranks} of it"
    adapter = learner.lora.r is not None
    trained, held = (adapter_weights(cfg, card), wide) if adapter else (N, own)
    state, kept = STATES[learner.optimizer]
    found: list[Part] = []

    def shared(what: str, size: float, why: str) -> None:
        found.append(Part(what, size / ranks, f"{why}{of}", host=offload))

    shared("weights", N * own, f"{N:,} x {own} bytes")
    if adapter:
        shared("adapter", trained * held, f"rank {learner.lora.r}, {held} bytes")
    shared("gradients", trained * held, f"of {trained:,} trained weights")
    shared("optimizer", trained * state(held, SMALL), f"{learner.optimizer}: {kept}")
    compared = not adapter and (learner.beta > 0 or measures(cfg))
    if compared:
        waits = "; waits on the CPU between updates" if learner.reference_device else ""
        each = own if learner.reference.startswith("ema:") else computed  # an average is not rounded
        shared("reference", N * each + embeddings * (own - each), f"{each} bytes a weight{waits}")
    if ranks > 1 or offload:
        found += _in_flight(N, trained, L, embeddings, own, computed, compared)
    elif learner.autocast and own > computed:
        found.append(Part("weights in bfloat16", N * computed, "while an update is computed"))
    if measures(cfg) and card.feed_forward:
        mlp = (adapter_weights(cfg, card, MLP) if adapter else 3 * d * card.feed_forward * L) * wide
        shared("g_sta", mlp, "a copy of the MLP gradients")
        if learner.tokens is not None or learner.microbatch % cfg.rollout.group != 0:
            shared("groups in parts", 2 * mlp, "two more where a group is cut between microbatches")
    tokens = _at_once(cfg)
    found.append(Part("activations", *_activations(cfg, tokens, d, card.feed_forward or 4 * d, L, own, computed)))
    entries = min(LOGITS, tokens * (card.vocabulary or LOGITS))
    found.append(Part("logits", 4 * entries * 4, f"four blocks of at most {entries:,} in float32"))
    return found


def _in_flight(
    N: int, trained: int, layers: int, embeddings: int, own: int, computed: int, compared: bool
) -> Iterator[Part]:
    """What is whole on each GPU for a while where the model is in shards."""
    outside = min(N, 2 * embeddings)  # the head may be the embeddings
    of_policy, of_reference = outside * own, embeddings * (own + computed) if compared else 0
    block = (N - outside) / layers
    why = f"two blocks, embeddings and head whole{', those of the reference too' if compared else ''}"
    yield Part("gathered", 2 * block * computed + of_policy + of_reference, why)
    wide = max(4, own)
    if trained < N:
        yield Part("gradients of a block", 2 * trained / layers * wide, "two of each weight, before they are in shards")
    else:
        yield Part("whole gradients", 2 * block * wide + of_policy, "two of a block's, those of embeddings and head")


def adapter_weights(cfg: Config, card: Card, among: Sequence[str] = ()) -> int:
    """Entries of the matrices of ``learner.lora``, of targets ``among`` some only; of unknown ones as of MLP layers."""
    d, feed_forward = card.hidden or 0, card.feed_forward or 4 * (card.hidden or 0)
    queries, keys = card.queries or d, card.keys or d
    sides = {"q_proj": d + queries, "k_proj": d + keys, "v_proj": d + keys, "o_proj": queries + d}
    sides |= dict.fromkeys(MLP, d + feed_forward)
    targets = list(sides) if cfg.learner.lora.targets == ["all-linear"] else cfg.learner.lora.targets
    chosen = [sides.get(name, d + feed_forward) for name in targets if not among or name in among]
    return (cfg.learner.lora.r or 0) * sum(chosen) * (card.layers or 0)


def on_gpu(found: list[Part]) -> float:
    """Bytes on each GPU."""
    return sum(part.size for part in found if not part.host)


def on_host(found: list[Part], ranks: int) -> float:
    """Bytes of CPU memory, for all ranks together."""
    return ranks * sum(part.size for part in found if part.host)


def total(cfg: Config, card: Card) -> float | None:
    """Bytes that the learner needs at most on each of its GPUs; None before the model's shape is known."""
    found = parts(cfg, card, cfg.launch.nproc, cfg.launch.offload)
    return None if found is None else on_gpu(found)


def memory(cfg: Config, card: Card) -> list[tuple[str, str]]:
    """(what, how much and why); one line that says so where the model's shape is not known."""
    ranks, offload = cfg.launch.nproc, cfg.launch.offload
    found, other = (parts(cfg, card, ranks, each) for each in (offload, not offload))
    if found is None or other is None:
        return [("memory", "not known before the model's files are here")]
    rows = [
        (f"memory: {part.what}", f"{part.size / 1e9:.2f} GB{' of CPU memory' if part.host else ''} ({part.why})")
        for part in found
    ]
    for what, each in (("", found), (f", launch.offload={str(not offload).lower()}", other)):
        where = "" if ranks == 1 else f" on each of {ranks} GPUs"
        host = f", and {on_host(each, ranks) / 1e9:.2f} GB of CPU memory" if any(part.host for part in each) else ""
        rows.append((f"memory: learner{what}", f"{on_gpu(each) / 1e9:.2f} GB at most{where}{host}"))
    if cfg.rollout.name == "vllm":
        share = cfg.rollout.engine.get("gpu_memory_utilization", 0.9)
        where = f"GPUs {cfg.rollout.gpus}" if cfg.rollout.gpus else "the learner's GPU, asleep while the learner works"
        weights = (card.parameters or 0) * 2 / 1e9
        rows.append(("memory: engine", f"{share:.0%} of {where}; weights {weights:.2f} GB in bfloat16"))
    return rows


def _at_once(cfg: Config) -> int:
    """Tokens of a microbatch, at most."""
    sequence = cfg.rollout.max_prompt_tokens + cfg.rollout.max_new_tokens
    return max(cfg.learner.tokens, sequence) if cfg.learner.tokens else cfg.learner.microbatch * sequence


def _activations(
    cfg: Config, tokens: int, d: int, feed_forward: int, layers: int, own: int, computed: int
) -> tuple[float, str]:
    """Bytes of one microbatch, and how they come about."""
    inner = tokens * (8 * d + 4 * feed_forward) * computed  # a layer: projections, norms, attention, the MLP's values
    if cfg.learner.gradient_checkpointing:
        size, how = tokens * d * own * layers + inner, "inputs of the layers, and one layer computed again"
    else:
        size, how = inner * layers, "all layers"
    return size, f"at most {tokens:,} tokens: {how}"
