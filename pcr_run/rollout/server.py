"""The engine's process: owns vLLM's ``LLM`` and answers one request at a time (``answer.py``).

``python -m pcr_run.rollout.server SOCKET``. The first message holds the arguments of ``LLM``. Nothing here is imported
by the run's own process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from pcr_run.rollout.answer import answer

TOKENS = {"detokenize": False, "ignore_eos": True}
"""Token ids only; what ends a response stands in ``stop_token_ids``, since a model may have several such ids."""


class Server:
    """What the run may ask of the engine."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.requests = 0
        self.adapter: LoRARequest | None = None

    def generate(
        self, prompts: Sequence[tuple[int, Sequence[int], int]], n: int, options: dict[str, Any]
    ) -> Iterator[dict[int, list[tuple[tuple[int, ...], tuple[float, ...], str]]]]:
        """By index, as they are done: n times (token ids, log-probs, finish reason) for each (index, ids, seed)."""
        indices = {}
        for index, ids, seed in prompts:
            self.requests += 1
            params = SamplingParams(
                n=n, seed=seed, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY, **TOKENS, **options
            )
            self.llm.llm_engine.add_request(
                str(self.requests), TokensPrompt(prompt_token_ids=list(ids)), params, lora_request=self.adapter
            )
            indices[str(self.requests)] = index
        while self.llm.llm_engine.has_unfinished_requests():
            outputs = [output for output in self.llm.llm_engine.step() if output.finished]
            if outputs:
                yield {indices[output.request_id]: [completion(one) for one in output.outputs] for output in outputs}

    def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Log-probs of ``ids`` [T] from the second one on [T - 1], computed anew, never from the prefix cache."""
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, **TOKENS)
        (output,) = self.llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids))], params, use_tqdm=False, lora_request=self.adapter
        )
        return [entry[token].logprob for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    def load(self, directory: str) -> None:
        """Take the weights from the safetensors files of a directory."""
        self.llm.collective_rpc("load_from", args=(directory,))

    def adapt(self, directory: str, number: int) -> None:
        """From now on compute through the adapter in a directory (peft's files) instead of the last one."""
        adapter = LoRARequest(f"adapter {number}", number, directory)
        self.llm.llm_engine.add_lora(adapter)
        self.adapter = adapter

    def call(self, method: str, *arguments: Any) -> Any:
        """Any method of ``LLM``: sleep, wake_up, reset_prefix_cache, the four of a weight transfer."""
        return getattr(self.llm, method)(*arguments)


def completion(output: Any) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Token ids, their log-probs and the finish reason of one sample, as plain data."""
    ids = tuple(output.token_ids)
    return (
        ids,
        tuple(entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True)),
        output.finish_reason,
    )


def end_with_children() -> None:
    """End this process as soon as one of vLLM's dies: its client may wait for a dead one's answer for ever."""
    wait([child.sentinel for child in multiprocessing.active_children()])
    os._exit(1)


def made(arguments: dict[str, Any]) -> Server:
    """The engine, and a watch over its processes."""
    server = Server(LLM(**arguments))
    threading.Thread(target=end_with_children, daemon=True).start()
    return server


if __name__ == "__main__":
    # An engine that died ends this process, which is how the run finds out.
    answer(Connection(int(sys.argv[1])), made, dies_of=EngineDeadError)
