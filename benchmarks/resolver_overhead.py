"""The learner's step under every resolver against `none`: time as a ratio, peak memory in copies of the MLP gradients.

    python benchmarks/resolver_overhead.py [--sizes tiny,smollm2] [--repeats 7] [--threads N] [--json FILE]
                                           [--only time|memory] [--memory-repeats 3] [--microbatch ROWS]
                                           [--device cuda] [--autocast]

Time: one learner of each resolver in one process, a step of each in turn, the ratio to the step of `none` in the same
round; median and range over rounds. At most 1.9 for `pcr`.

Memory: a fresh process for each resolver and repeat. What its resident size grew by from before the model was made
(libraries loaded) to the peak of the second step (AdamW's moments made), so that hundreds of MB of libraries do not
hide the difference; on a GPU, the peak of what was allocated there. Median and range over processes. At most 1.1 times
that of `none` plus three copies of the MLP gradients. The exit code is 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from pcr_run.gradients.groups import select
from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.resolver import from_config
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig

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
    # The shape of Qwen2-0.5B, for a GPU: two learners fit into 80 GB.
    "qwen2_0p5b": Size(
        lambda: Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        prompts=4,
        group=8,
        prompt=128,
        response=512,
        microbatch=8,
    ),
}


@dataclass(frozen=True)
class Place:
    """Where and how the learner computes."""

    device: str = "cpu"
    autocast: bool = False

    def wait(self) -> None:
        """Until all that was asked of a GPU is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def build(size: Size, resolver: str, place: Place) -> tuple[nn.Module, Learner]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(size.config(), dtype=torch.float32).to(place.device)
    learner = Learner(
        model,
        LearnerConfig(microbatch=size.microbatch, autocast=place.autocast),
        RESOLVERS[resolver],
        MeasureConfig(),
        steps=1000,
        rollout=RolloutConfig(name="hf", max_new_tokens=size.response),
    )
    return model, learner


def batch(size: Size, vocabulary: int, device: str) -> Batch:
    rows, tokens = size.prompts * size.group, size.prompt + size.response
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(vocabulary, (rows, tokens), generator=generator)
    mask = torch.zeros(rows, tokens, dtype=torch.bool)
    mask[:, size.prompt :] = True
    advantages = torch.randn(rows, generator=generator)
    tensors = (ids, mask, torch.zeros(rows, tokens), advantages, torch.ones(rows))
    return Batch(*(tensor.to(device) for tensor in tensors), size.group)


def time_steps(size: Size, resolvers: list[str], repeats: int, place: Place) -> dict[str, list[float]]:
    """Seconds of each step, one learner after the other in each round; the first round is not counted."""
    learners = {name: build(size, name, place) for name in resolvers}
    vocabulary = next(iter(learners.values()))[0].config.vocab_size
    data = batch(size, vocabulary, place.device)
    seconds: dict[str, list[float]] = {name: [] for name in resolvers}
    for step in range(repeats + 1):
        for name, (_, learner) in learners.items():
            place.wait()
            start = time.perf_counter()
            learner.update(data, step + 1)
            place.wait()
            if step:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(size: Size, resolver: str, place: Place) -> int:
    """Bytes by which this process grew to the peak of its second step; on a GPU, what was allocated at that peak."""
    from_config(RESOLVERS[resolver])  # loads what the resolver imports
    before = resident("VmRSS")
    model, learner = build(size, resolver, place)
    data = batch(size, model.config.vocab_size, place.device)
    learner.update(data, 1)
    if place.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        learner.update(data, 2)
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    learner.update(data, 2)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes, by /proc: getrusage's peak survives exec, so a child would report its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def mlp_bytes(size: Size) -> int:
    """Bytes of one copy of the MLP gradients, float32."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(size.config())
    named = dict(model.named_parameters())
    return sum(named[name].numel() * 4 for name in select(model, "mlp"))


@dataclass(frozen=True)
class Figure:
    """One resolver's measurements of one kind, with the bound that it must keep (none: no bound)."""

    size: str
    resolver: str
    kind: str
    values: list[float]
    bound: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        return self.bound is None or self.median <= self.bound

    def __str__(self) -> str:
        form = "x{:.2f}" if self.kind == "time" else "{:.1f} MB"
        low, middle, high = (form.format(x) for x in (min(self.values), self.median, max(self.values)))
        bound = (
            "" if self.bound is None else f"  bound {form.format(self.bound)}: {'holds' if self.holds else 'BROKEN'}"
        )
        return f"{self.size:8} {self.resolver:12} {self.kind:7} {middle:>11} ({low} to {high}){bound}"


def time_figures(name: str, repeats: int, place: Place) -> Iterator[Figure]:
    """Ratios to the step of `none` in the same round."""
    # A large model's learners do not fit into memory together: each against a `none` of its own.
    others = [other for other in RESOLVERS if other != "none"]
    for group in [others] if name == "tiny" else [[other] for other in others]:
        seconds = time_steps(SIZES[name], ["none", *group], repeats, place)
        print(f"{name:8} none         time    {statistics.median(seconds['none']):9.3f} s")
        for resolver in group:
            ratios = [s / n for s, n in zip(seconds[resolver], seconds["none"], strict=True)]
            yield Figure(name, resolver, "time", ratios, 1.9 if resolver == "pcr" else None)


def memory_figures(name: str, repeats: int, options: list[str]) -> Iterator[Figure]:
    """Peaks in MB, each from a process of its own."""
    copy, bound = mlp_bytes(SIZES[name]) / 1e6, None
    for resolver in RESOLVERS:
        command = [sys.executable, __file__, "--peak", name, resolver, *options]
        peaks = [int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) / 1e6 for _ in range(repeats)]
        figure = Figure(name, resolver, "memory", peaks, bound)
        if resolver == "none":
            plain = figure.median
            bound = 1.1 * plain + 3 * copy
            print(f"{name:8} memory: 1.1 x none + 3 copies of the MLP gradients of {copy:.1f} MB = {bound:.1f} MB")
        yield figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,smollm2")
    parser.add_argument("--only", choices=("time", "memory"))
    parser.add_argument("--repeats", type=int, default=7, help="rounds of steps")
    parser.add_argument("--memory-repeats", type=int, default=3, help="processes of each resolver")
    parser.add_argument("--microbatch", type=int, help="rows; below a group's size a rule needs two copies more")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    parser.add_argument("--json")
    parser.add_argument("--peak", nargs=2, metavar=("SIZE", "RESOLVER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.microbatch:
        for name, size in SIZES.items():
            SIZES[name] = replace(size, microbatch=args.microbatch)
    place = Place(args.device, args.autocast)
    if args.peak:
        print(peak_memory(SIZES[args.peak[0]], args.peak[1], place))
        return 0
    figures = []
    options = [f"--{key}={value}" for key in ("threads", "microbatch", "device") if (value := getattr(args, key))]
    options += ["--autocast"] * args.autocast
    for name in args.sizes.split(","):
        parts = {
            "time": time_figures(name, args.repeats, place),
            "memory": memory_figures(name, args.memory_repeats, options),
        }
        for kind, measured in parts.items():
            if args.only in (None, kind):
                for figure in measured:
                    print(figure, flush=True)
                    figures.append(figure)
    if args.json:
        found = [{**asdict(figure), "median": figure.median, "holds": figure.holds} for figure in figures]
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
