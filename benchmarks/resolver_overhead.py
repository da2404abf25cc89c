"""The learner's step under every resolver against `none`: time as a ratio, peak memory in copies of the MLP gradients.

    python benchmarks/resolver_overhead.py [--sizes tiny,smollm2] [--repeats 7] [--threads N] [--json FILE]

Time: one learner of each resolver in one process, a step of each in turn, the ratio to the step of `none` in the same
round; median and range over rounds. Memory: one process a resolver, peak resident size over a step.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from pcr_run.config import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig
from pcr_run.groups import select
from pcr_run.learner import Batch, Learner

RESOLVERS = {
    "none": ResolverConfig(name="none"),
    "pcgrad": ResolverConfig(name="pcgrad"),
    "fixed": ResolverConfig(name="fixed"),
    "pcr": ResolverConfig(name="pcr"),
    "pcr_literal": ResolverConfig(name="pcr_literal"),
    "torchjd": ResolverConfig(name="torchjd"),
}


@dataclass(frozen=True)
class Size:
    """A model's shape and a step's: P prompts of ``prompt`` tokens, G responses of ``response`` tokens."""

    config: Callable[[], object]
    prompts: int
    group: int
    prompt: int
    response: int
    microbatch: int


SIZES = {
    "tiny": Size(
        lambda: Qwen2Config(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        prompts=16,
        group=8,
        prompt=20,
        response=40,
        microbatch=32,
    ),
    # The shape of SmolLM2-135M; its weights do not matter here.
    "smollm2": Size(
        lambda: LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        prompts=2,
        group=4,
        prompt=96,
        response=64,
        microbatch=4,
    ),
}


def build(size: Size, resolver: str) -> tuple[nn.Module, Learner]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(size.config(), dtype=torch.float32)
    learner = Learner(
        model,
        LearnerConfig(microbatch=size.microbatch),
        RESOLVERS[resolver],
        MeasureConfig(),
        steps=1000,
        rollout=RolloutConfig(name="hf", max_new_tokens=size.response),
    )
    return model, learner


def batch(size: Size, vocabulary: int) -> Batch:
    rows, tokens = size.prompts * size.group, size.prompt + size.response
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(vocabulary, (rows, tokens), generator=generator)
    mask = torch.zeros(rows, tokens, dtype=torch.bool)
    mask[:, size.prompt :] = True
    advantages = torch.randn(rows, generator=generator)
    return Batch(ids, mask, torch.zeros(rows, tokens), advantages, torch.ones(rows), size.group)


def time_steps(size: Size, resolvers: list[str], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, one learner after the other in each round; the first round is not counted."""
    learners = {name: build(size, name) for name in resolvers}
    vocabulary = next(iter(learners.values()))[0].config.vocab_size
    data = batch(size, vocabulary)
    seconds: dict[str, list[float]] = {name: [] for name in resolvers}
    for step in range(repeats + 1):
        for name, (_, learner) in learners.items():
            start = time.perf_counter()
            learner.update(data, step + 1)
            if step:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(size: Size, resolver: str) -> int:
    """Bytes of the peak resident size of this process after two steps."""
    model, learner = build(size, resolver)
    for step in (1, 2):
        learner.update(batch(size, model.config.vocab_size), step)
    # Not getrusage: its peak survives exec, so a child would report its parent's.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def mlp_bytes(size: Size) -> int:
    model, _ = build(size, "none")
    named = dict(model.named_parameters())
    return sum(named[name].numel() * 4 for name in select(model, "mlp"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,smollm2")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    parser.add_argument("--peak", nargs=2, metavar=("SIZE", "RESOLVER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_memory(SIZES[args.peak[0]], args.peak[1]))
        return
    results = []
    for name in args.sizes.split(","):
        size = SIZES[name]
        # A large model's learners do not fit into memory together: each against a `none` of its own.
        pairs = [list(RESOLVERS)] if name == "tiny" else [["none", other] for other in RESOLVERS if other != "none"]
        unit, plain = mlp_bytes(size), None
        for group in pairs:
            seconds = time_steps(size, group, args.repeats)
            for resolver in group[plain is not None :]:
                ratios = [s / n for s, n in zip(seconds[resolver], seconds["none"], strict=True)]
                command = [sys.executable, __file__, "--peak", name, resolver]
                command += ["--threads", str(args.threads)] if args.threads else []
                peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                plain = plain or peak
                results.append(
                    {
                        "size": name,
                        "resolver": resolver,
                        "seconds": statistics.median(seconds[resolver]),
                        "ratio": statistics.median(ratios),
                        "range": [min(ratios), max(ratios)],
                        "peak_mb": peak / 1e6,
                        "extra_mlp_copies": (peak - plain) / unit,
                        "peak_bound_mb": (1.1 * plain + 3 * unit) / 1e6,
                    }
                )
                r = results[-1]
                print(
                    f"{name:8} {resolver:12} {r['seconds']:8.3f} s  x{r['ratio']:.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})  peak {r['peak_mb']:7.0f} MB "
                    f"(none + {r['extra_mlp_copies']:.1f} MLP gradients; bound {r['peak_bound_mb']:.0f} MB)",
                    flush=True,
                )
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
