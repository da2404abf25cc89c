"""The training loop: rollout, reward, advantages, two gradients, resolved update, again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from pcr_run.data import Completion, Item, Reward, Rollout, RolloutWorker, Sampling, Score
from pcr_run.learner import objective
from pcr_run.learner.batch import Batch
from pcr_run.learner.learner import Learner
from pcr_run.reward import shortened, stop_on_failures
from pcr_run.run.dynamic import Group, filled
from pcr_run.run.metrics import reward_metrics, transcripts
from pcr_run.schema import Config
from pcr_run.seeds import derive, take


@dataclass(frozen=True)
class Question:
    """A training question and its prompt as token ids."""

    item: Item
    prompt: Sequence[int]


@dataclass
class Clock:
    """Seconds spent in each phase of one step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Experience:
    """What the policy did in one step and what it was worth.

    ``scores`` of the N = P * G responses; ``collected``: metrics of the weights' way to the worker and of sampling;
    ``clock``: seconds by phase; ``sampled``: tokens of all responses, those that were not used too, and the seconds
    that they ``took``.
    """

    step: int
    rollout: Rollout
    scores: Sequence[Score]
    collected: dict[str, float]
    clock: Clock
    sampled: int
    took: float


@dataclass(frozen=True)
class StepRecord:
    """What one step leaves behind for the run directory."""

    metrics: dict[str, float]
    layers: list[dict[str, Any]]
    transcripts: list[dict[str, Any]]


def collect(
    cfg: Config,
    step: int,
    questions: Sequence[Question],
    worker: RolloutWorker,
    reward: Reward,
    decode: Callable[[Sequence[int]], str],
) -> Experience:
    """Sample G responses to each of the P prompts of ``step`` (the first is 1) and score them."""
    return begin(cfg, step, questions, worker, reward, decode)()


def begin(
    cfg: Config,
    step: int,
    questions: Sequence[Question],
    worker: RolloutWorker,
    reward: Reward,
    decode: Callable[[Sequence[int]], str],
) -> Callable[[], Experience]:
    """``collect`` in two parts: the weights go to the worker now; what is returned samples from them and scores."""
    clock, stack = Clock(), ExitStack()
    P, G = cfg.rollout.prompts, cfg.rollout.group
    chosen = take(questions, (step - 1) * P, P, cfg.seed)
    sampling = Sampling(temperature=cfg.rollout.temperature, max_new_tokens=cfg.rollout.max_new_tokens)
    with clock("sync"):
        transfer = stack.enter_context(worker.synced(step))
    background = stack.enter_context(ThreadPoolExecutor(1))

    def sample(asked: Sequence[Question], round_: int) -> list[Group]:
        seed = derive(cfg.seed, "rollout", step, *([round_] if round_ else []))
        completions: dict[int, list[Completion]] = {}
        texts: dict[int, list[str]] = {}
        scoring: list[tuple[list[int], Future[list[Score]]]] = []
        with clock("rollout"):
            for part in worker.generate([question.prompt for question in asked], G, sampling, seed):
                completions |= part
                texts |= {p: [decode(completion.token_ids) for completion in group] for p, group in part.items()}
                items = [asked[p].item for p in part for _ in range(G)]
                # Scored while the rest is sampled, where the engine gives out what is done.
                scored = background.submit(reward, items, [text for p in part for text in texts[p]])
                scoring.append((list(part), scored))
        with clock("reward"):
            scores: dict[int, list[Score]] = {}
            for prompts, future in scoring:
                values = iter(future.result())
                scores |= {p: list(islice(values, G)) for p in prompts}
        window, longest = cfg.reward.overlong, cfg.rollout.max_new_tokens
        return [
            Group(completions[p], texts[p], shortened(scores[p], completions[p], window, longest))
            for p in range(len(asked))
        ]

    def rest() -> Experience:
        used, rounds = chosen, cfg.rollout.max_rounds
        counts: dict[str, float] = {}
        with stack:
            if cfg.rollout.dynamic:
                used, groups, counts, every = filled(questions, chosen, sample, step, rounds, cfg.seed)
            else:
                groups = every = sample(chosen, 0)
        stop_on_failures(cfg.reward, [score for group in every for score in group.scores])
        rollout = Rollout(
            items=[question.item for question in used],
            prompt_ids=[question.prompt for question in used],
            completions=[completion for group in groups for completion in group.completions],
            texts=[text for group in groups for text in group.texts],
            group=G,
        )
        in_order = [score for group in groups for score in group.scores]
        sampled = sum(len(completion.token_ids) for group in every for completion in group.completions)
        return Experience(step, rollout, in_order, {**transfer, **counts}, clock, sampled, clock.seconds["rollout"])

    return rest


def learn(cfg: Config, experience: Experience, learner: Learner, pad: int) -> StepRecord:
    """Update the policy on a step's experience: advantages, two gradients, resolver, optimizer."""
    step, rollout, scores, clock = experience.step, experience.rollout, experience.scores, experience.clock
    with clock("learner"):
        rewards = torch.tensor([score.value for score in scores], dtype=torch.float64).view(-1, rollout.group)
        batch = collate(cfg, rollout, rewards, pad, learner.device)
        penalised = {}
        if cfg.learner.kl_in == "reward" and cfg.learner.beta > 0:
            kl = cfg.learner.beta * learner.divergence(batch, step).double().cpu()
            batch = rewarded(cfg, batch, rewards - kl.view_as(rewards))
            penalised = {"reward/kl": -kl.mean().item()}
        updated, layers = learner.update(batch, step)
    tokens = experience.sampled
    metrics = {
        "step": step,
        **reward_metrics(rollout, scores, rewards),
        **updated,
        **penalised,
        **experience.collected,
        **{f"time/{phase}": seconds for phase, seconds in clock.seconds.items()},
        "perf/tokens_per_second": tokens / sum(clock.seconds.values()),
        "perf/rollout_tokens_per_second": tokens / experience.took,
    }
    return StepRecord(metrics, layers, transcripts(step, rollout, scores, cfg.tracker.transcripts))


def rewarded(cfg: Config, batch: Batch, rewards: torch.Tensor) -> Batch:
    """The batch with the advantages of other ``rewards`` [P, G]."""
    advantages = objective.advantages(rewards, cfg.learner.advantage)
    return replace(batch, advantages=advantages.flatten().to(batch.advantages))


def collate(cfg: Config, rollout: Rollout, rewards: torch.Tensor, pad: int, device: torch.device) -> Batch:
    """Right-padded rows [N, T] of prompt and response, with advantages [N] from ``rewards`` [P, G]."""
    learner, G = cfg.learner, rollout.group
    N = len(rollout.completions)
    T = max(len(rollout.prompt_ids[i // G]) + len(c.token_ids) for i, c in enumerate(rollout.completions))
    ids = torch.full((N, T), pad)
    mask = torch.zeros(N, T, dtype=torch.bool)
    drawn = torch.zeros(N, T)
    for i, completion in enumerate(rollout.completions):
        prompt = rollout.prompt_ids[i // G]
        end = len(prompt) + len(completion.token_ids)
        ids[i, :end] = torch.tensor([*prompt, *completion.token_ids])
        if not (learner.mask_truncated and completion.finish == "length"):
            mask[i, len(prompt) : end] = True
        drawn[i, len(prompt) : end] = torch.tensor(completion.logprobs)
    advantages = objective.advantages(rewards, learner.advantage)
    informative = ~objective.zero_advantage(rewards)
    kl = informative.float() if learner.zero_advantage == "skip" else torch.ones(len(rewards))
    return Batch(
        ids=ids.to(device),
        mask=mask.to(device),
        drawn=drawn.to(device),
        advantages=advantages.flatten().float().to(device),
        kl=kl.repeat_interleave(G).to(device),
        group=G,
    )
