"""Sampling with vLLM in processes of its own, from weights that are proved to be the learner's after every sync."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from pcr_run.data import Completion, Sampling
from pcr_run.errors import ConfigError, RunError
from pcr_run.model import lora
from pcr_run.model.policy import split
from pcr_run.rollout import canary
from pcr_run.rollout.engine import Engine, EngineDeadError, EngineError, shared_directory
from pcr_run.rollout.transfer import Files, Native, Transfer
from pcr_run.schema import Config, RolloutConfig
from pcr_run.seeds import derive

log = logging.getLogger(__name__)
T = TypeVar("T")

CPU = {"enable_chunked_prefill": False}
"""A prompt that is computed in pieces and has a seed kills vLLM 0.32 on CPU: it turns the seed's generator back, which
CPU generators cannot ('CPU Generator does not use offset')."""


class VLLMWorker:
    """Samples from an engine that is brought up to date with ``model`` before each use.

    ``eos``: ids that end a response; ``probe`` [T]: token ids of the canary's prompt; ``directory``: of the run, where
    the engine's log goes. Construction starts the engine, which takes up to a minute.
    """

    def __init__(
        self,
        cfg: Config,
        model: PreTrainedModel,
        eos: Sequence[int],
        probe: Sequence[int],
        directory: Path,
        status: Callable[[str], None],
    ) -> None:
        self.cfg, self.model, self.eos, self.status = cfg, model, list(eos), status
        self.policy = split(model)
        self.log = directory / "engine.log"
        self.probe = list(probe[: canary.TOKENS])
        self.arguments = arguments(cfg, model)
        self.tolerance = cfg.rollout.canary or canary.TOLERANCE[self.arguments["dtype"]]
        self.backend = transfer_backend(cfg.rollout, model.device.type)
        # On the learner's own GPU the engine gives its memory back while the learner works.
        self.sleeps = model.device.type == "cuda" and cfg.rollout.gpus is None
        self.step = self.restarts = 0
        self.engine: Engine | None = None
        self._start()

    @contextlib.contextmanager
    def synced(self, step: int) -> Iterator[dict[str, float]]:
        """The engine samples from the learner's weights as they are now; yields what the canary found."""
        self.step = step
        difference = self._persist(self._sync)
        yield {"mismatch/canary": difference, "perf/engine_restarts": float(self.restarts)}
        if self.sleeps:
            self._persist(self._sleep)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[dict[int, list[Completion]]]:
        """``n`` completions for each prompt, by its index, in the order in which they are done."""
        greedy = sampling.temperature == 0
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": self.eos,
        }
        numbers = range(len(prompts)) if numbers is None else numbers
        left = {i: (i, list(prompts[i]), derive(seed, number) % 2**62) for i, number in enumerate(numbers)}

        def rest() -> Iterator[dict[int, list[Completion]]]:
            assert self.engine is not None
            for done in self.engine.stream("generate", list(left.values()), 1 if greedy else n, options):
                for index in done:
                    del left[index]
                yield {
                    index: [Completion(*one) for one in group] * (n if greedy else 1) for index, group in done.items()
                }

        while left:
            try:
                yield from rest()
            except EngineDeadError as death:
                self._restart(death)
            except EngineError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """End the engine's processes."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def _start(self) -> None:
        """A new engine with the learner's weights, from a directory in shared memory that ends with it."""
        self.close()
        weights = shared_directory(sum(p.numel() * p.element_size() for p in self.model.parameters()))
        lora.save_merged(self.model, weights)
        environment = {}
        if self.cfg.rollout.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.cfg.rollout.gpus
        threads = self.cfg.threads or os.environ.get("OMP_NUM_THREADS")
        if threads:  # else vLLM binds its threads to cores, and every engine on a CPU to the same ones
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        if self.arguments["dtype"] == "float32":
            environment["TRITON_F32_DEFAULT"] = "ieee"  # attention kernels on GPUs would round operands to TF32
        if self.backend == "ipc":
            environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of GPU memory, from our own process
        arguments = {**self.arguments, "model": str(weights)}
        if self.backend != "files":
            arguments["weight_transfer_config"] = {"backend": self.backend}
        self.engine = Engine(
            arguments,
            weights,
            self.log,
            environment,
            seconds=self.cfg.rollout.start_seconds,
            status=self.status,
        )
        self.asleep = self.proved = False
        self.transfer: Transfer = (
            Files(self.model, self.engine, weights)
            if self.backend == "files"
            else Native(self.model, self.engine, self.backend, self.arguments.get("tensor_parallel_size", 1))
        )

    def _restart(self, death: EngineDeadError) -> None:
        """Start again, at most ``rollout.restarts`` times in a run. What dies at once would do so again."""
        if not self.proved:
            raise RunError(f"vLLM died at its first prompt ({death}); see {self.log}") from death
        if self.cfg.rollout.lag:
            raise RunError(
                f"the engine died ({death}); with rollout.lag=1 it is not started again, since the weights that it had "
                f"may be gone. The same command goes on from the newest checkpoint; see {self.log}"
            ) from death
        if self.restarts >= self.cfg.rollout.restarts:
            raise RunError(
                f"the engine died {self.restarts + 1} times (rollout.restarts={self.cfg.rollout.restarts}), "
                f"last: {death}; see {self.log}"
            ) from death
        self.restarts += 1
        log.warning(
            "the engine died (%s) and is started again, %d of %d", death, self.restarts, self.cfg.rollout.restarts
        )
        self._start()
        self._persist(self._check)

    def _persist(self, action: Callable[[], T]) -> T:
        """Do something with the engine, again where it died of it."""
        while True:
            try:
                return action()
            except EngineDeadError as death:
                self._restart(death)
            except EngineError as error:
                raise self._refused(error) from error

    def _refused(self, error: EngineError) -> RunError:
        return RunError(f"vLLM: {error}; see {self.log}")

    def _sync(self) -> float:
        """Wake what sleeps, send the weights, forget cached prompts, compare; the canary's difference in nats."""
        assert self.engine is not None
        # Before the engine is asked for anything: on a CPU its workers spin for a while after a request, and a forward
        # pass beside them takes many times as long.
        learner = self._expected()
        if self.asleep:
            self.engine.ask("call", "wake_up", ["weights"])
        self.transfer.send()
        self.engine.ask("call", "reset_prefix_cache")
        if self.asleep:
            self.engine.ask("call", "wake_up", ["kv_cache"])
            self.asleep = False
        return self._compare(learner)

    def _check(self) -> float:
        return self._compare(self._expected())

    def _expected(self) -> list[float]:
        return canary.expected(self.policy, self.probe, self.model.device)

    def _compare(self, learner: Sequence[float]) -> float:
        assert self.engine is not None
        difference = canary.compare(self.engine.ask("logprobs", self.probe), learner, self.tolerance, self.step)
        self.proved = True
        return difference

    def _sleep(self) -> None:
        assert self.engine is not None
        self.engine.ask("call", "sleep", 2)
        self.asleep = True


def transfer_backend(rollout: RolloutConfig, device: str) -> str:
    """``rollout.transfer``, where ``auto`` is the fastest way; ConfigError for one that the devices do not have."""
    if device != "cuda" and rollout.gpus is not None:
        raise ConfigError(
            "rollout.gpus", f"{rollout.gpus}, but the learner is on {device}; leave it out, or set device"
        )
    fastest = "files" if device != "cuda" else "ipc" if rollout.gpus is None else "nccl"
    if rollout.transfer not in ("auto", "files", fastest):
        where = f"learner on {device}, " + (f"vLLM on GPUs {rollout.gpus}" if rollout.gpus else "vLLM on the same")
        raise ConfigError(
            "rollout.transfer", f"{rollout.transfer} does not work here ({where}); right: {fastest} or files"
        )
    return fastest if rollout.transfer == "auto" else rollout.transfer


def arguments(cfg: Config, model: PreTrainedModel) -> dict[str, Any]:
    """Arguments of vLLM's ``LLM``: ours, then those of ``rollout.engine``. ConfigError for lengths that do not fit."""
    rollout = cfg.rollout
    responses = max(rollout.max_new_tokens, cfg.evaluation.max_new_tokens or 0)
    needed = max(rollout.max_prompt_tokens + responses, canary.TOKENS + 1)
    given = {key: value for key, value in rollout.engine.items() if value is not None}
    length = given.get("max_model_len", needed)
    if length < needed:
        raise ConfigError(
            "rollout.engine.max_model_len",
            f"{length} is below {needed}, the longest prompt with the longest response; raise it",
        )
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(
            "rollout.max_new_tokens",
            f"prompt and response may have {length} tokens, the model takes {longest}",
        )
    merged = {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the model's own sampling defaults
        "logprobs_mode": "processed_logprobs",
        "seed": cfg.seed % 2**31,
        "dtype": cfg.model.dtype,
        "max_model_len": length,
        "trust_remote_code": cfg.model.trust_remote_code,
        "disable_log_stats": True,
        **(CPU | {"max_num_batched_tokens": max(4096, length)} if model.device.type == "cpu" else {}),
        "worker_extension_cls": "pcr_run.rollout.extension.Weights",
        "enable_sleep_mode": model.device.type == "cuda" and rollout.gpus is None,
        **given,
    }
    if model.device.type == "cpu" and "kv_cache_memory_bytes" not in given:
        merged["kv_cache_memory_bytes"] = cpu_cache(cfg, text, length)
    return merged


def cpu_cache(cfg: Config, text: Any, length: int) -> int:
    """Bytes for keys and values on CPU: what a step's responses need, at most a quarter of the free memory."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    sequence = 2 * text.num_hidden_layers * heads * size * 4 * length
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sequence > free // 4:
        raise ConfigError(
            "rollout.max_new_tokens",
            f"keys and values of one response take {sequence >> 20} MiB, over a quarter of the free {free >> 20} MiB",
        )
    # Blocks are given out whole, 128 tokens each on CPU: a margin of one block a response.
    wanted = cfg.rollout.prompts * cfg.rollout.group * (sequence + sequence * 128 // length)
    return max(min(wanted, free // 4), 64 << 20)
