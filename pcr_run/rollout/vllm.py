"""Sampling with vLLM in processes of its own, from weights that are proved to be the learner's after every sync."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from pcr_run.data import Completion, Sampling
from pcr_run.distributed import ranks
from pcr_run.distributed.launch import local_rank
from pcr_run.distributed.whole import Weights
from pcr_run.errors import RunError
from pcr_run.model.policy import split
from pcr_run.rollout import canary
from pcr_run.rollout.arguments import arguments, environment
from pcr_run.rollout.engine import Engine, EngineDeadError, EngineError, shared_directory
from pcr_run.rollout.source import Source
from pcr_run.rollout.transfer import Adapter, Files, Native, Transfer, backend
from pcr_run.schema import Config
from pcr_run.seeds import derive

log = logging.getLogger(__name__)
T = TypeVar("T")


class VLLMWorker:
    """Samples from an engine that is brought up to date with the learner's ``weights`` before each use.

    ``eos``: ids that end a response; ``probe`` [T]: token ids of the canary's prompt; ``directory``: of the run, where
    the engine's log goes. Construction starts the engine, which takes up to a minute. Where ranks share the weights
    each has an engine of its own; construction and syncs are for all of them together.
    """

    def __init__(
        self,
        cfg: Config,
        weights: Weights,
        eos: Sequence[int],
        probe: Sequence[int],
        directory: Path,
        status: Callable[[str], None],
    ) -> None:
        self.cfg, self.weights, self.eos, self.status = cfg, weights, list(eos), status
        self.adapts = cfg.rollout.lora == "adapter"
        self.source = Source(weights, merged=not self.adapts)
        self.model = self.source.model
        self.backend = backend(cfg.rollout, self.model.device.type)
        self.arguments = arguments(cfg, self.model)
        with self._here():
            self.policy = split(self.model)
        self.log = directory / ("engine.log" if ranks.first() else f"engine-{ranks.rank()}.log")
        self.probe = list(probe[: canary.TOKENS])
        self.tolerance = cfg.rollout.canary or canary.TOLERANCE["bfloat16" if self._rounds else self.arguments["dtype"]]
        # On the learner's own GPU the engine gives its memory back while the learner works.
        self.sleeps = self.model.device.type == "cuda" and cfg.rollout.gpus is None
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
        """A new engine with the learner's weights, from a directory in shared memory that ends with it.

        The engines of a machine read one directory, which ends with that of its first rank.
        """
        self.close()
        first = local_rank() == 0
        weights = ranks.on_machine(shared_directory(self.source.bytes) if first else Path())
        self.source.describe(weights)
        self.source.save(weights)
        self._make_room()
        arguments = {**self.arguments, "model": str(weights)}
        native = self.backend != "files" and not self.adapts
        if native:
            arguments["weight_transfer_config"] = {"backend": self.backend}
        self.engine = Engine(
            arguments,
            weights if first else None,
            self.log,
            environment(self.cfg, self.model.device, self.arguments["dtype"], self.backend),
            seconds=self.cfg.rollout.start_seconds,
            status=self.status,
        )
        self.asleep = self.proved = False
        self.transfer: Transfer
        if native:
            workers = self.arguments.get("tensor_parallel_size", 1)
            self.transfer = Native(self.source, self.engine, self.backend, workers)
        else:
            self.transfer = (Adapter if self.adapts else Files)(self.source, self.engine, weights)

    def _restart(self, death: EngineDeadError) -> None:
        """Start again, at most ``rollout.restarts`` times in a run. What dies at once would do so again.

        Several ranks start none again: all would have to send it the weights, and the others are at work.
        """
        if not self.proved:
            raise RunError(f"vLLM died at its first prompt ({death}); see {self.log}") from death
        if self.cfg.rollout.lag:
            raise RunError(
                f"the engine died ({death}); with rollout.lag=1 it is not started again, since the weights that it had "
                f"may be gone. The same command goes on from the newest checkpoint; see {self.log}"
            ) from death
        if ranks.together():
            raise RunError(f"the engine of rank {ranks.rank()} died ({death}); see {self.log}") from death
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
        self._persist(self._sync)

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
            self._make_room()
            self.engine.ask("call", "wake_up", ["weights"])
        self.transfer.send()
        self.engine.ask("call", "reset_prefix_cache")
        if self.asleep:
            self.engine.ask("call", "wake_up", ["kv_cache"])
            self.asleep = False
        return self._compare(learner)

    def _make_room(self) -> None:
        """On a GPU in common, give back what torch keeps for the learner's next tensors: the engine cannot have it."""
        if self.sleeps:
            torch.cuda.empty_cache()

    def _expected(self) -> list[float]:
        with self._here():
            return canary.expected(self.policy, self.probe, self.model.device)

    @property
    def _rounds(self) -> bool:
        """Whether the learner computes with rounded weights: those in shards are gathered as its products want them."""
        return self.weights.spread and self.cfg.learner.autocast

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """Inside, the model computes, whichever ranks share its weights."""
        rounded = torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._rounds)
        with self.weights.rest(), rounded:
            yield

    def _compare(self, learner: Sequence[float]) -> float:
        assert self.engine is not None
        difference = canary.agreed(self.engine.ask("logprobs", self.probe), learner, self.tolerance, self.step)
        self.proved = True
        return difference

    def _sleep(self) -> None:
        assert self.engine is not None
        self.engine.ask("call", "sleep", 1 if self.adapts else 2)  # 2 forgets the weights, which come again
        self.asleep = True
