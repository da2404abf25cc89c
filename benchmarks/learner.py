"""One batch through every learner: plain GRPO, PCR by both engines, and TRL's where it is installed.

    python benchmarks/learner.py [--sizes smollm2] [--learners none,pcr-portable,pcr-twin,trl] [--rounds 5]
                                 [--zero SHARE] [--threads N] [--device cuda] [--autocast] [--compile]
                                 [--checkpointing] [--json FILE] [--check FILE]

A learner's name with ``-compiled`` at its end runs its layers compiled (none-compiled, pcr-twin-compiled);
``--compile`` adds that variant of each of ours, so that one command gives what compiling brings. An ending such as
``-no_packing`` switches a lever off (learner_levers.py), ``-no_packing-no_cast`` two of them.

Ragged prompts and responses, random weights, reference pass, forward, backward and AdamW; no sampling. In each round
every learner is built, does a step to warm up and one that counts; ratios are those within a round, since a shared
machine is as fast as it is at the moment, and the medians over rounds count. TFLOP/s are useful ones: (2 reference + 6
policy) x weights x real tokens, the head's for response tokens only; attention and recomputation are not counted.
Beside each ratio stands the one that its products alone would have (learner_count.py). Memory, on a GPU, is the peak of
what is allocated in the steps that count (for a CPU see resolver_overhead.py).
``--zero``: this share of the groups has no advantage. ``--check``: fail where a ratio is more than 10% worse than in a
file of baselines, beyond noise (learner_check.py). ``--profile``: print where the time of a learner's step goes.

Sizes for a CPU: tiny, smollm2. For a GPU of 80 GB, with ``--device cuda --autocast``: qwen2_0p5b, qwen2_1p5b (gradient
checkpointing), qwen2_1p5b_long (1k to 16k tokens). TRL: pip install 'pcr-run[bench]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from learner_check import FEWEST, outcomes
from learner_count import needed, useful
from learner_levers import OFF, without
from learner_sizes import SIZES, Size
from transformers import AutoModelForCausalLM, PreTrainedModel

from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.schema import LearnerConfig, MeasureConfig, ResolverConfig, RolloutConfig


@dataclass(frozen=True)
class Data:
    """Token ids of prompts and responses, an advantage for each response."""

    prompts: list[list[int]]
    responses: list[list[int]]
    advantages: torch.Tensor
    group: int

    @property
    def real(self) -> int:
        """Tokens of prompts and responses."""
        return sum(map(len, self.prompts)) * self.group + self.sampled

    @property
    def sampled(self) -> int:
        """Tokens of responses."""
        return sum(map(len, self.responses))

    @property
    def informative(self) -> int:
        """Tokens of prompts and responses, of those responses that have an advantage."""
        rows = enumerate(zip(self.responses, self.advantages.tolist(), strict=True))
        return sum(len(self.prompts[i // self.group]) + len(row) for i, (row, advantage) in rows if advantage)

    def padded(self, rows: int) -> tuple[int, int]:
        """Tokens of both, and of responses, where ``rows`` responses at a time are padded on both sides."""
        count = len(self.responses)
        parts = [range(start, min(start + rows, count)) for start in range(0, count, rows)]
        left = [max(len(self.prompts[i // self.group]) for i in part) * len(part) for part in parts]
        right = [max(len(self.responses[i]) for i in part) * len(part) for part in parts]
        return sum(left) + sum(right), sum(right)

    def batch(self, device: str) -> Batch:
        """Right-padded rows, as the training loop makes them."""
        rows = [self.prompts[i // self.group] + response for i, response in enumerate(self.responses)]
        longest = max(map(len, rows))
        ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, len(row) - len(self.responses[i]) : len(row)] = True
        tensors = (ids, mask, torch.zeros(ids.shape), self.advantages, torch.ones(len(rows)))
        return Batch(*(tensor.to(device) for tensor in tensors), self.group)


def draw(size: Size, vocabulary: int, zero: float) -> Data:
    generator = torch.Generator().manual_seed(1)

    def row(bounds: tuple[int, int]) -> list[int]:
        length = int(torch.randint(bounds[0], bounds[1] + 1, (1,), generator=generator))
        return torch.randint(10, vocabulary, (length,), generator=generator).tolist()

    prompts = [row(size.prompt) for _ in range(size.prompts)]
    responses = [row(size.response) for _ in range(size.prompts * size.group)]
    advantages = torch.randn(size.prompts, size.group, generator=generator)
    advantages[: round(zero * size.prompts)] = 0
    return Data(prompts, responses, advantages.flatten(), size.group)


@dataclass(frozen=True)
class Place:
    """Where and how is computed."""

    device: str
    autocast: bool

    def wait(self) -> None:
        """Until all that was asked of a GPU is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give back what nothing holds, and forget the peak of memory so far."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@dataclass(frozen=True)
class Ours:
    """What a learner's name says: ``none``, ``pcr-twin``, ``pcr-twin-no_packing-compiled`` and so on."""

    resolver: str
    engine: str
    compiled: bool
    off: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> Ours:
        """Errors: ValueError for an ending that means nothing."""
        resolver, *endings = name.split("-")
        engines = [each for each in endings if each in ("portable", "twin")]
        unknown = set(endings) - {*engines, "compiled", *OFF}
        if unknown or len(engines) > 1:
            raise ValueError(f"{name}: right are endings portable, twin, compiled, {', '.join(OFF)}")
        off = tuple(each for each in endings if each in OFF)
        return cls(resolver, engines[0] if engines else "auto", "compiled" in endings, off)


def ours(name: str, model: PreTrainedModel, size: Size, data: Data, place: Place) -> Callable[[], object]:
    """A step of our learner."""
    said = Ours.of(name)
    cfg = LearnerConfig(
        tokens=None if "no_packing" in said.off else size.tokens,
        microbatch=size.rows,
        engine=said.engine,
        compile=said.compiled,
        autocast=place.autocast,
        gradient_checkpointing=size.checkpointing,
    )
    rollout = RolloutConfig(name="hf", max_new_tokens=size.response[1])
    resolver = ResolverConfig(name=said.resolver)
    with without(said.off):
        learner = Learner(model, cfg, resolver, MeasureConfig(), steps=100, rollout=rollout)
    batch = data.batch(place.device)
    steps = iter(range(1, 100))

    def step() -> None:
        with without(said.off):
            learner.update(batch, next(steps))

    return step


def step_of(name: str, model: PreTrainedModel, size: Size, data: Data, place: Place) -> Callable[[], object]:
    if name != "trl":
        return ours(name, model, size, data, place)
    from trl_step import theirs

    return theirs(model, size, data, place)


def built(name: str, size: Size, data: Data, place: Place) -> tuple[PreTrainedModel, Callable[[], object]]:
    """The model and a step of a learner, which it has done once."""
    place.forget()
    torch._dynamo.reset()  # graphs of the models before this one count towards the limit of a layer's class
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(size.config(), dtype=torch.float32).to(place.device)
    step = step_of(name, model, size, data, place)
    step()
    place.wait()
    return model, step


def measure(name: str, size: Size, data: Data, place: Place) -> dict[str, float]:
    """Seconds, useful TFLOP/s and, on a GPU, peak GB of a step."""
    model, step = built(name, size, data, place)
    place.forget()
    start = time.perf_counter()
    step()
    place.wait()
    seconds = time.perf_counter() - start
    found = {
        "counted": needed(name, model, size, data),
        "seconds": seconds,
        "tflops": useful(model, data) / seconds / 1e12,
    }
    return found | ({"gb": torch.cuda.max_memory_allocated() / 1e9} if place.device != "cpu" else {})


def profile(name: str, size: Size, data: Data, place: Place) -> None:
    """Print the operations that take most of a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    _, step = built(name, size, data, place)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (place.device != "cpu")
    with watch(activities=activities) as seen:
        step()
        place.wait()
    by = "self_cpu_time_total" if place.device == "cpu" else "self_device_time_total"
    print(name, seen.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=70), flush=True)


def compare(
    name: str, size: Size, learners: list[str], rounds: int | None, zero: float, place: Place
) -> dict[str, object]:
    """All rounds of one size, as many as it takes by default; medians, and ratios within rounds."""
    rounds = rounds or size.rounds
    data = draw(size, size.config().vocab_size, zero)  # type: ignore[attr-defined]
    found: dict[str, list[dict[str, float]]] = {learner: [] for learner in learners}
    for _ in range(rounds):
        for learner in learners:
            found[learner].append(measure(learner, size, data, place))
            seconds = found[learner][-1]["seconds"]
            print(name, learner, f"{seconds:.3f} s", flush=True)
    plain = [each["seconds"] for each in found["none"]]
    out: dict[str, object] = {"size": name, "zero": zero, "checkpointing": size.checkpointing, "rounds": rounds}
    out["real_tokens"] = data.real
    out["padded_tokens"] = data.padded(size.rows)[0]
    for learner in learners:
        row = {key: statistics.median(each[key] for each in found[learner]) for key in found[learner][0]}
        ratios = [each["seconds"] / base for each, base in zip(found[learner], plain, strict=True)]
        ratio = statistics.median(ratios)
        counted = row.pop("counted") / found["none"][0]["counted"]
        out[learner] = {**row, "to_none": ratio, "ratios": ratios}
        by_count = ""
        if "-no_" not in learner:  # without a lever there is more to do
            out[learner]["counted_to_none"] = counted
            by_count = f", by count x{counted:.2f}"
        memory = f"  {row['gb']:6.2f} GB" if "gb" in row else ""
        print(
            f"{name:16} {learner:24} {row['seconds']:8.3f} s  {row['tflops']:7.2f} TFLOP/s{memory}  "
            f"x{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of none{by_count}"
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="smollm2")
    parser.add_argument("--learners", default="none,pcr-portable,pcr-twin,trl")
    parser.add_argument("--rounds", type=int, help="by default 11 of size tiny, 5 of the others")
    parser.add_argument("--zero", type=float, default=0.0, help="share of the groups without an advantage")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    parser.add_argument("--compile", action="store_true", help="each of our learners with compiled layers too")
    parser.add_argument("--checkpointing", action="store_true", help="also in sizes that do without it")
    parser.add_argument("--json", help="write what was found")
    parser.add_argument("--check", type=Path, help="a file of baselines")
    parser.add_argument("--profile", metavar="LEARNERS", help="print where the time of these goes, and nothing else")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    learners = args.learners.split(",")
    if args.compile:
        learners += [f"{name}-compiled" for name in learners if name != "trl"]
    if args.check and args.rounds and args.rounds < FEWEST:
        parser.error(f"--check: {args.rounds} rounds prove nothing, however slow; right: --rounds of at least {FEWEST}")
    for learner in {*learners, *(args.profile or "none").split(",")} - {"trl"}:
        try:
            Ours.of(learner)
        except ValueError as error:
            parser.error(str(error))
    if args.check and args.checkpointing:
        parser.error("--check: baselines are of the sizes as they are; right: without --checkpointing")
    if "none" not in learners:
        parser.error("--learners: none has to be among them; all ratios are to it")
    if "trl" in learners and importlib.util.find_spec("trl") is None:
        print("trl is not installed: left out (pip install 'pcr-run[bench]')")
        learners.remove("trl")
    place = Place(args.device, args.autocast)
    if args.device != "cpu":
        torch.cuda.set_device(torch.device(args.device).index or 0)  # of which time and memory are measured
    sizes = {name: SIZES[name] for name in args.sizes.split(",")}
    if args.checkpointing:
        sizes = {name: dataclasses.replace(size, checkpointing=True) for name, size in sizes.items()}
    if args.profile:
        for size in sizes.values():
            data = draw(size, size.config().vocab_size, args.zero)  # type: ignore[attr-defined]
            for learner in args.profile.split(","):
                profile(learner, size, data, place)
        return 0
    found = [compare(name, size, learners, args.rounds, args.zero, place) for name, size in sizes.items()]
    if args.json:
        about = {"torch": torch.__version__, "device": args.device, "autocast": args.autocast}
        if args.device != "cpu":
            about["gpu"] = torch.cuda.get_device_name()
        about["threads"] = torch.get_num_threads()
        Path(args.json).write_text(json.dumps({"about": about, "found": found}, indent=2) + "\n")
    checked = outcomes(found, json.loads(args.check.read_text())["found"]) if args.check else []
    print(*checked, sep="\n")
    return int(any(each.verdict == "worse" for each in checked))


if __name__ == "__main__":
    sys.exit(main())
