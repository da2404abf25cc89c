"""The memory that a run needs on each of the learner's GPUs, by formula: what tensors hold, not what allocators add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcr_run.configuration.check.batch import measures
from pcr_run.model.card import Card
from pcr_run.schema import Config
from pcr_run.schema.learner import SMALL, STATES

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
LOGITS = 2**25
"""Entries of a block of logits (``model.policy.LOGITS_AT_ONCE``); four of them are alive at once."""
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Part:
    """Bytes on one GPU, for what and why; ``host``: they are in CPU memory where FSDP2 offloads its shards."""

    what: str
    size: float
    why: str
    host: bool = False


def parts(cfg: Config, card: Card, ranks: int) -> list[Part] | None:
    """What one of ``ranks`` GPUs holds; None where the model's shape is not known.

    Several GPUs share weights, gradients and the optimizer's state evenly (FSDP2); each has its own microbatches.
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
    found = [
        Part("weights", N * own / ranks, f"{N:,} x {own} bytes{of}", host=True),
        Part("gradients", trained * held / ranks, f"of {trained:,} trained weights{of}", host=True),
        Part("optimizer", trained * state(held, SMALL) / ranks, f"{learner.optimizer}: {kept}{of}", host=True),
    ]
    if adapter:
        found.insert(1, Part("adapter", trained * held / ranks, f"rank {learner.lora.r}, {held} bytes{of}", host=True))
    elif learner.beta > 0 or measures(cfg):
        waits = "; waits on the CPU between updates" if learner.reference_device else ""
        copy = N * computed + embeddings * (own - computed)
        found.append(Part("reference", copy / ranks, f"{computed} bytes a weight{of}{waits}", host=True))
    if ranks > 1:
        block = (N - 2 * embeddings) / L
        size = 2 * block * computed + 2 * embeddings * computed + block * own
        found.append(Part("gathered", size, "two blocks, the embeddings and the head whole; one block's gradients"))
    elif learner.autocast and own > computed:
        found.append(Part("weights in bfloat16", N * computed, "while an update is computed"))
    if measures(cfg) and card.feed_forward:
        mlp = (adapter_weights(cfg, card, MLP) if adapter else 3 * d * card.feed_forward * L) * wide / ranks
        cut = learner.tokens is not None or learner.microbatch % cfg.rollout.group != 0
        found.append(Part("g_sta", mlp, f"a copy of the MLP gradients{of}"))
        if cut:
            found.append(Part("groups in parts", 2 * mlp, "two more where a group is cut between microbatches"))
    found.append(Part("activations", *_activations(cfg, d, card.feed_forward or 4 * d, L, own, computed)))
    found.append(Part("logits", 4 * LOGITS * 4, "blocks of 128 MiB"))
    return found


def adapter_weights(cfg: Config, card: Card, among: Sequence[str] = ()) -> int:
    """Entries of the matrices of ``learner.lora``, of targets ``among`` some only; of unknown ones as of MLP layers."""
    d, feed_forward = card.hidden or 0, card.feed_forward or 4 * (card.hidden or 0)
    queries, keys = card.queries or d, card.keys or d
    sides = {"q_proj": d + queries, "k_proj": d + keys, "v_proj": d + keys, "o_proj": queries + d}
    sides |= dict.fromkeys(MLP, d + feed_forward)
    targets = list(sides) if cfg.learner.lora.targets == ["all-linear"] else cfg.learner.lora.targets
    chosen = [sides.get(name, d + feed_forward) for name in targets if not among or name in among]
    return (cfg.learner.lora.r or 0) * sum(chosen) * (card.layers or 0)


def on_gpu(found: list[Part], offload: bool = False) -> float:
    """Bytes on each GPU, of ``offload`` with FSDP2's shards in CPU memory."""
    return sum(part.size for part in found if not (offload and part.host))


def total(cfg: Config, card: Card) -> float | None:
    """Bytes that the learner needs at most on each of its GPUs; None before the model's shape is known."""
    found = parts(cfg, card, cfg.launch.nproc)
    return None if found is None else on_gpu(found)


def on_host(found: list[Part], ranks: int) -> float:
    """Bytes of CPU memory, for all ranks together, where shards are offloaded."""
    return ranks * sum(part.size for part in found if part.host)


def memory(cfg: Config, card: Card) -> list[tuple[str, str]]:
    """(what, how much and why); one line that says so where the model's shape is not known."""
    ranks = cfg.launch.nproc
    found = parts(cfg, card, ranks)
    if found is None:
        return [("memory", "not known before the model's files are here")]
    rows = [(f"memory: {part.what}", f"{part.size / 1e9:.2f} GB ({part.why})") for part in found]
    each = "" if ranks == 1 else f" on each of {ranks} GPUs"
    rows.append(("memory: learner", f"{on_gpu(found) / 1e9:.2f} GB at most{each}"))
    if ranks > 1:
        host = f"and {on_host(found, ranks) / 1e9:.2f} GB of CPU memory"
        rows.append(("memory: learner, CPU offload", f"{on_gpu(found, True) / 1e9:.2f} GB at most{each}, {host}"))
    if cfg.rollout.name == "vllm":
        share = cfg.rollout.engine.get("gpu_memory_utilization", 0.9)
        where = f"GPUs {cfg.rollout.gpus}" if cfg.rollout.gpus else "the learner's GPU, asleep while the learner works"
        weights = (card.parameters or 0) * 2 / 1e9
        rows.append(("memory: engine", f"{share:.0%} of {where}; weights {weights:.2f} GB in bfloat16"))
    return rows


def _activations(cfg: Config, d: int, feed_forward: int, layers: int, own: int, computed: int) -> tuple[float, str]:
    """Bytes of one microbatch, and how they come about."""
    learner = cfg.learner
    sequence = cfg.rollout.max_prompt_tokens + cfg.rollout.max_new_tokens
    tokens = max(learner.tokens, sequence) if learner.tokens else learner.microbatch * sequence
    inner = tokens * (8 * d + 4 * feed_forward) * computed  # a layer: projections, norms, attention, the MLP's values
    if learner.gradient_checkpointing:
        size, how = tokens * d * own * layers + inner, "inputs of the layers, and one layer computed again"
    else:
        size, how = inner * layers, "all layers"
    return size, f"at most {tokens:,} tokens: {how}"
