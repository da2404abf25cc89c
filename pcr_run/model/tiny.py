"""The embedded model: a Qwen2 causal LM of under a million parameters, trained here in a minute or two on a CPU.

It is a pre-trained model in small: it can do what its corpus does, as often as its corpus does it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers, trainers
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from pcr_run.model import recipe
from pcr_run.model.corpus import Document, documents

IGNORED = -100


def build(directory: Path, steps: int) -> None:
    """Train the model for ``steps`` steps and save it with its tokenizer in the ordinary Hugging Face layout.

    Deterministic for a given torch, machine and thread count; leaves torch's random state as it was.
    """
    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.SEED)
        model = Qwen2ForCausalLM(
            Qwen2Config.from_dict(
                {
                    **recipe.ARCHITECTURE,
                    "bos_token_id": None,
                    "eos_token_id": tokenizer.eos_token_id,
                    "pad_token_id": tokenizer.pad_token_id,
                }
            )
        )
    train(model, tokenizer, steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE cut as Qwen2 cuts, so any text has tokens; numbers of two digits are tokens of their own."""
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.ARCHITECTURE["vocab_size"] - len(recipe.NUMBERS),
        special_tokens=list(recipe.SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = islice(documents(recipe.SEED), 5_000)
    backend.train_from_iterator((text for each in sample for text in (each.prompt or "", each.text)), trainer)
    learned = json.loads(backend.to_str())["model"]
    parts: Any = {"vocab": learned["vocab"], "merges": list(map(tuple, learned["merges"])), "unk_token": None}
    tokenizer = Qwen2Tokenizer(
        **parts,
        pad_token=recipe.PAD,
        eos_token=recipe.END,
        extra_special_tokens=[token for token in recipe.SPECIAL if token not in (recipe.PAD, recipe.END)],
        chat_template=recipe.CHAT_TEMPLATE,
        model_max_length=recipe.ARCHITECTURE["max_position_embeddings"],
        padding_side="left",
    )
    tokenizer.add_tokens(list(recipe.NUMBERS))
    return tokenizer


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, steps: int) -> None:
    """Next-token prediction of answers and texts, AdamW, one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.LEARNING_RATE, total_steps=steps, pct_start=recipe.WARMUP
    )
    model.train()
    for ids, targets in with_progress(islice(batches(tokenizer), steps), steps):
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def batches(tokenizer: Qwen2Tokenizer, pool: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (token ids, targets), each [BATCH, T], right-padded; prompts and padding are no targets.

    Documents of like length share a batch, to pad little.
    """
    rng = random.Random(recipe.SEED)
    corpus = documents(recipe.SEED + 1)
    while True:
        rows = sorted(
            (encode(tokenizer, each) for each in islice(corpus, pool * recipe.BATCH)), key=lambda r: len(r[0])
        )
        starts = list(range(0, len(rows), recipe.BATCH))
        rng.shuffle(starts)
        for start in starts:
            yield padded(rows[start : start + recipe.BATCH], tokenizer.pad_token_id)


def encode(tokenizer: Qwen2Tokenizer, document: Document) -> tuple[list[int], list[int]]:
    """Token ids of a document and its targets, of equal length."""
    answer = [*tokenizer.encode(document.text), tokenizer.eos_token_id]
    if document.prompt is None:
        return answer, answer
    question = [{"role": "user", "content": document.prompt}]
    prompt: Any = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    return prompt + answer, [IGNORED] * len(prompt) + answer


def padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids and targets as two tensors."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    targets = torch.tensor([targets + [IGNORED] * (longest - len(targets)) for _, targets in rows])
    return ids, targets


def with_progress(work: Iterator[tuple[Tensor, Tensor]], total: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Show how far ``work`` is: a bar on a terminal, a line every tenth elsewhere."""
    what = "training the embedded model (once; it is cached)"
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(work, what, total, console=Console(stderr=True), transient=True)
        return
    start = time.monotonic()
    for done, each in enumerate(work, 1):
        yield each
        if done == total or done % (total // 10) == 0:
            print(f"{what}: {done} of {total} steps, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
