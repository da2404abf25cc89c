"""The memory that a run needs on the learner's device, by formula: what tensors hold, not what an allocator adds."""

from __future__ import annotations

from pcr_run.configuration.check.batch import measures
from pcr_run.model.card import Card
from pcr_run.schema import Config
from pcr_run.schema.learner import KEPT

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
LOGITS = 2**25
"""Entries of a block of logits (``model.policy.LOGITS_AT_ONCE``); four of them are alive at once."""


def memory(cfg: Config, card: Card) -> list[tuple[str, str]]:
    """(what, how much and why); one line that says so where the model's files are not here."""
    N, d, L = card.parameters, card.hidden, card.layers
    if N is None or d is None or L is None:
        return [("memory", "not known before the model's files are here")]
    learner = cfg.learner
    own = BYTES.get(cfg.model.dtype, 4)
    computed = 2 if learner.autocast else own
    embeddings = (card.vocabulary or 0) * d
    parts = [
        ("weights", N * own, f"{N:,} x {own} bytes"),
        ("gradients", N * own, "one copy"),
        ("AdamW", KEPT[learner.optimizer] * N * own, "two moments"),
    ]
    parts = [part for part in parts if part[1]]
    if learner.beta > 0 or measures(cfg):
        waits = "; waits on the CPU between updates" if learner.reference_device else ""
        parts.append(("reference", N * computed + embeddings * (own - computed), f"{computed} bytes a weight{waits}"))
    if learner.autocast and own > computed:
        parts.append(("weights in bfloat16", N * computed, "while an update is computed"))
    if measures(cfg) and card.feed_forward:
        mlp = 3 * d * card.feed_forward * L * own
        cut = learner.tokens is not None or learner.microbatch % cfg.rollout.group != 0
        parts.append(("g_sta", mlp, "a copy of the MLP gradients"))
        if cut:
            parts.append(("groups in parts", 2 * mlp, "two more where a group is cut between microbatches"))
    sequence = cfg.rollout.max_prompt_tokens + cfg.rollout.max_new_tokens
    tokens = max(learner.tokens, sequence) if learner.tokens else learner.microbatch * sequence
    wide = 8 * d + 4 * (card.feed_forward or 4 * d)  # a layer: projections, norms, attention, the MLP's inner values
    again = learner.gradient_checkpointing
    layers = tokens * d * own * L + tokens * wide * computed if again else tokens * wide * computed * L
    how = "inputs of the layers, and one layer computed again" if again else "all layers"
    parts.append(("activations", layers, f"at most {tokens:,} tokens: {how}"))
    parts.append(("logits", 4 * LOGITS * 4, "blocks of 128 MiB"))
    rows = [(f"memory: {what}", f"{size / 1e9:.2f} GB ({why})") for what, size, why in parts]
    rows.append(("memory: learner", f"{sum(size for _, size, _ in parts) / 1e9:.2f} GB at most"))
    if cfg.rollout.name == "vllm":
        share = cfg.rollout.engine.get("gpu_memory_utilization", 0.9)
        where = f"GPUs {cfg.rollout.gpus}" if cfg.rollout.gpus else "the learner's GPU, asleep while the learner works"
        rows.append(("memory: engine", f"{share:.0%} of {where}; weights {N * 2 / 1e9:.2f} GB in bfloat16"))
    return rows
