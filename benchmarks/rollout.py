"""Tokens per second of `rollout=vllm`, of vLLM's bare `LLM.generate` and of `rollout=hf`, and what a sync costs.

    python benchmarks/rollout.py                          the embedded model
    python benchmarks/rollout.py scale=smollm2 --rounds 3
    python benchmarks/rollout.py rollout.engine.gpu_memory_utilization=0.3      two engines on one GPU

Arguments are overrides of the configuration. The three sample the same prompts in turn, `--rounds` times after one that
does not count, all from the same weights; medians and ranges are printed, and ratios are of medians. The bare `LLM`
runs in a process tree of its own as well. Responses have random lengths, so tokens are counted, not assumed.

At the end a second engine is started as the first one was and samples the same batches with the same seeds: the share
of responses that are not the same tokens is what `seed` leaves open with `rollout=vllm`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

import transformers
from hydra import compose as hydra_compose
from hydra import initialize_config_module

from pcr_run import model, task
from pcr_run.configuration import compose
from pcr_run.data import Completion, Sampling
from pcr_run.distributed.whole import Whole
from pcr_run.model.chat import Chat
from pcr_run.rollout import end_ids
from pcr_run.rollout.hf import HFWorker
from pcr_run.rollout.vllm import VLLMWorker
from pcr_run.run.environment import pick_device
from pcr_run.seeds import derive

BARE = """
import sys
from multiprocessing.connection import Connection
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    pipe = Connection(int(sys.argv[1]))
    llm = LLM(**pipe.recv())
    pipe.send("ready")
    while True:
        prompts, params = pipe.recv()
        params = [SamplingParams(**each) for each in params]
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        pipe.send(sum(len(one.token_ids) for output in outputs for one in output.outputs))
"""


class Bare:
    """vLLM as its documentation shows it: one call with all prompts. The keeper ends its processes."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        ours, theirs = socketpair()
        self.pipe = Connection(ours.detach())
        script = Path(tempfile.mkdtemp()) / "bare.py"
        script.write_text(BARE)
        with (script.parent / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pcr_run.rollout.keeper", str(theirs.fileno()), str(script.parent), "--"),
                    *(sys.executable, str(script), str(theirs.fileno())),
                ],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                stdout=log,
                stderr=log,
            )
        theirs.close()
        self.pipe.send(arguments)
        self.pipe.recv()

    def generate(self, prompts: list[list[int]], n: int, sampling: Sampling, eos: list[int], seed: int) -> int:
        """Tokens sampled."""
        options = {"n": n, "temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens, "logprobs": 0}
        options |= {"stop_token_ids": eos, "ignore_eos": True, "detokenize": False}
        params = [{**options, "seed": derive(seed, i) % 2**62} for i in range(len(prompts))]
        self.pipe.send((prompts, params))
        return int(self.pipe.recv())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments, overrides = parser.parse_known_args()
    compose.register()
    with initialize_config_module("pcr_run.conf", version_base="1.3"):
        cfg = compose.to_config(hydra_compose("config", ["rollout=vllm", *overrides]))
    transformers.utils.logging.disable_progress_bar()
    policy, tokenizer = model.load(cfg.model, str(pick_device(cfg)))
    questions = task.make(cfg.task, cfg.seed).train[: cfg.rollout.prompts]
    prompts = [Chat(tokenizer).encode(question) for question in questions]
    eos, G = end_ids(policy, tokenizer), cfg.rollout.group
    sampling = Sampling(cfg.rollout.temperature, 1.0, cfg.rollout.max_new_tokens)
    directory = Path(tempfile.mkdtemp())
    hf = HFWorker(policy, eos, tokenizer.pad_token_id or eos[0], cfg.rollout.batch)
    start = time.perf_counter()
    ours = VLLMWorker(cfg, Whole(policy), eos, prompts[0], directory, lambda _: None)
    print(f"start of the engine: {time.perf_counter() - start:.1f} s")
    assert ours.engine is not None
    policy.save_pretrained(directory / "model")
    bare = Bare({**ours.arguments, "model": str(directory / "model")})

    def responses(worker: HFWorker | VLLMWorker, seed: int) -> list[Sequence[int]]:
        groups: dict[int, list[Completion]] = {}
        for part in worker.generate(prompts, G, sampling, seed):
            groups |= part
        return [one.token_ids for index in range(len(prompts)) for one in groups[index]]

    def tokens(worker: HFWorker | VLLMWorker, seed: int) -> int:
        return sum(map(len, responses(worker, seed)))

    kinds: dict[str, Callable[[int], int]] = {
        "rollout=vllm": lambda seed: tokens(ours, seed),
        "bare LLM.generate": lambda seed: bare.generate(prompts, G, sampling, eos, seed),
        "rollout=hf": lambda seed: tokens(hf, seed),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    syncs, canaries, parts = [], [], []

    def timed(part: Callable[..., Any]) -> Callable[..., Any]:
        """A part of the canary, in its place within the sync: learner's and engine's."""

        def call(*given: Any) -> Any:
            start = time.perf_counter()
            value = part(*given)
            parts.append(time.perf_counter() - start)
            return value

        return call

    ours._expected, ours._compare = timed(ours._expected), timed(ours._compare)  # type: ignore[method-assign]
    for turn in range(arguments.rounds + 1):
        parts.clear()
        time.sleep(2)  # in a run the learner worked until now, and the engine's processes are idle
        start = time.perf_counter()
        with ours.synced(turn):
            syncs.append(time.perf_counter() - start)
            canaries.append(sum(parts))
            for name, sample in kinds.items():
                start = time.perf_counter()
                count = sample(turn)
                rates[name].append(count / (time.perf_counter() - start))
    for name, values in rates.items():
        kept = values[1:]
        ratio = statistics.median(rates["rollout=vllm"][1:]) / statistics.median(kept)
        print(
            f"{name:18} {statistics.median(kept):8.0f} tokens/s ({min(kept):.0f} to {max(kept):.0f})"
            + (f", rollout=vllm is {ratio:.2f} times that" if name != "rollout=vllm" else "")
        )
    for what, seconds in {"sync with canary": syncs[1:], "canary": canaries[1:]}.items():
        low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
        print(f"{what:18} {middle:8.1f} ms ({low:.1f} to {high:.1f})")
    assert bare.process.stdin is not None
    bare.process.stdin.close()
    bare.process.wait()
    with ours.synced(0):
        first = [one for seed in range(arguments.rounds) for one in responses(ours, seed)]
    ours.close()
    ours = VLLMWorker(cfg, Whole(policy), eos, prompts[0], directory, lambda _: None)
    with ours.synced(0):
        again = [one for seed in range(arguments.rounds) for one in responses(ours, seed)]
    ours.close()
    differ = sum(a != b for a, b in zip(first, again, strict=True))
    print(f"same seed, another engine: {differ} of {len(first)} responses differ ({differ / len(first):.2%})")


if __name__ == "__main__":
    main()
