"""The parts of a run, each made from the configuration, in the order of the data: task, reward, policy, worker."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pcr_run import model, reward, task
from pcr_run.data import Item, Overlap, Reward, RolloutWorker, Sampling, Task
from pcr_run.distributed.ranks import together
from pcr_run.errors import ConfigError
from pcr_run.evaluation import Evaluator, Harness, Questions
from pcr_run.learner.learner import Learner
from pcr_run.model import lora
from pcr_run.model.chat import Chat
from pcr_run.rollout import make_worker
from pcr_run.run.dealt import DealtReward, DealtWorker
from pcr_run.run.loop import Question
from pcr_run.schema import Config, TaskConfig
from pcr_run.seeds import derive
from pcr_run.task import overlap, text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a run is made of, ready to be used.

    ``settings``: the base model's generation settings as they came; ``overlap``: of training and held-out questions.
    """

    questions: Sequence[Question]
    reward: Reward
    chat: Chat
    learner: Learner
    evaluator: Evaluator
    worker: RolloutWorker
    settings: str | None
    overlap: dict[str, Overlap]

    @property
    def pad(self) -> int:
        """A token id that fills what is left of a row."""
        tokenizer = self.chat.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def assemble(
    cfg: Config, device: torch.device, directory: Path, stack: ExitStack, status: Callable[[str], None]
) -> Parts:
    """All parts; what they hold is released with ``stack``, and ``status`` is told what takes time."""
    status("loading the task")
    main, others = make_tasks(cfg)
    harness = make_harness(cfg)
    status("loading the model")
    policy, tokenizer = model.load(cfg.model, str(device))
    if cfg.learner.lora.r is not None:
        lora.attach(policy, cfg.learner.lora, derive(cfg.seed, "lora"))
    chat = model.chat(cfg.model, tokenizer)
    rewards = Rewards(cfg, chat, device, stack)
    questions = training_questions(cfg, chat, main.train)
    learner = Learner(
        policy,
        cfg.learner,
        cfg.resolver,
        cfg.measure,
        steps=cfg.steps,
        rollout=cfg.rollout,
        offload=cfg.launch.offload,
    )
    evaluator = make_evaluator(cfg, chat, measured_tasks(cfg, main, others), rewards, harness)
    check_prompts(cfg, evaluator)
    sampler = make_worker(cfg, learner.weights, chat.tokenizer, questions[0].prompt, directory, status)
    parts = Parts(
        questions=questions,
        reward=rewards.trained(),
        chat=chat,
        learner=learner,
        evaluator=evaluator,
        worker=dealt_worker(cfg, learner, sampler),
        settings=model.generation_settings(cfg.model),
        overlap=main.overlap,
    )
    stack.callback(parts.worker.close)
    return parts


def dealt_worker(cfg: Config, learner: Learner, worker: RolloutWorker) -> RolloutWorker:
    """The worker, where ranks share the run for each of them; vLLM has its own weights, hf samples from all of ours."""
    here = learner.whole if cfg.rollout.name == "hf" else contextlib.nullcontext
    return DealtWorker(worker, here) if together() else worker


def make_tasks(cfg: Config) -> tuple[Task, list[Task]]:
    """The trained task and those measured beside it, with answers that can be judged; none asks what is trained on."""
    main = task.load(cfg.task, cfg.seed)
    if not main.train:
        raise ConfigError("task", f"{cfg.task.name} is only measured; choose a task with training questions")
    named = {f"evaluation.tasks.{name}": each for name, each in cfg.evaluation.tasks.items() if name != cfg.task.name}
    others = [task.load(each, cfg.seed, key) for key, each in named.items()]
    main = overlap.apart(main, [main, *others], cfg.task.overlap == "drop")
    return reward.gradable(main), [
        reward.gradable(other, f"{key}.data") for key, other in zip(named, others, strict=True)
    ]


def measured_tasks(cfg: Config, main: Task, others: Sequence[Task]) -> dict[str, Task]:
    """What is measured, by the name under which its score stands.

    A benchmark that asks what the trained task holds out takes its place: it is measured once, by the benchmark's
    protocol, and its score stands under both names.
    """
    twin = next((each for each in others if each.name in same_questions(cfg)), main)
    return {main.name: twin, **{each.name: each for each in others}}


def same_questions(cfg: Config) -> list[str]:
    """Names of the tasks in ``evaluation.tasks`` with the held-out table, and as many shots, of the trained one."""

    def asked(each: TaskConfig) -> tuple[Any, ...]:
        return each.verifier, each.data.get("test"), each.data.get("shots", 0)

    tables = [each for each in cfg.evaluation.tasks.values() if each.data.get("source") == "hub"]
    return [each.name for each in tables if cfg.task.data.get("source") == "hub" and asked(each) == asked(cfg.task)]


def make_harness(cfg: Config) -> Harness | None:
    """The tasks of lm-eval, if there are any, loaded."""
    return Harness(cfg.evaluation.harness) if cfg.evaluation.harness.tasks else None


class Rewards:
    """The trained reward, and a verifier of each kind for what is only measured."""

    def __init__(self, cfg: Config, chat: Chat, device: torch.device, stack: ExitStack) -> None:
        self._cfg, self._chat, self._device, self._stack = cfg, chat, device, stack
        self._verifiers: dict[str, Reward] = {}

    def trained(self) -> Reward:
        """What training raises."""
        return self._made(self._cfg.reward)

    def verifier(self, name: str) -> Reward:
        """What judges held-out answers, whatever is trained."""
        if name not in self._verifiers:
            self._verifiers[name] = self._made(dataclasses.replace(self._cfg.reward, name="verifier", verifier=name))
        return self._verifiers[name]

    def _made(self, cfg: Any) -> Reward:
        made = reward.make(cfg, self._cfg.sandbox, str(self._device), self._chat.thinking)
        self._stack.callback(made.close)
        return DealtReward(made) if together() else made


def training_questions(cfg: Config, chat: Chat, items: Sequence[Item]) -> list[Question]:
    """Encoded questions; those with too long a prompt are left out and counted."""
    limit = cfg.rollout.max_prompt_tokens
    questions = [Question(item, chat.encode(item)) for item in items]
    kept = [question for question in questions if len(question.prompt) <= limit]
    if not kept:
        shortest = min(len(question.prompt) for question in questions)
        raise ConfigError(
            "rollout.max_prompt_tokens", f"{limit} leaves no question; the shortest has {shortest} tokens"
        )
    if len(kept) < len(questions):
        left_out = len(questions) - len(kept)
        log.warning("%d of %d questions are longer than %d tokens and left out", left_out, len(questions), limit)
    return kept


def held_out_questions(cfg: Config, chat: Chat, each: Task, verifier: Reward, also: str | None) -> Questions:
    """Encoded held-out questions with what judges them; ``also``: another name under which their score stands."""
    items = each.test[: cfg.evaluation.questions]
    used = {item.id for item in items}
    unjudged = {name: why for name, why in each.unjudged.items() if name in used or each.ungradable == "drop"}
    prompts = [chat.encode(item) for item in items]
    return Questions(each.name, items, prompts, verifier, each.n, each.verifier == "math", unjudged, also)


def make_evaluator(
    cfg: Config, chat: Chat, tasks: Mapping[str, Task], rewards: Rewards, harness: Harness | None
) -> Evaluator:
    """Held-out questions of all tasks with their verifiers, the text for perplexity, and tasks of lm-eval.

    ``tasks`` by the name under which a score stands; one that stands under two is measured once.
    """
    evaluation = cfg.evaluation
    documents = text.load(evaluation.text) if evaluation.text else []
    also = {each.name: name for name, each in tasks.items() if name != each.name}
    return Evaluator(
        tasks=[
            held_out_questions(cfg, chat, each, rewards.verifier(each.verifier), also.get(each.name))
            for each in {each.name: each for each in tasks.values()}.values()
        ],
        text=[torch.tensor(chat.tokenizer(document)["input_ids"]) for document in documents],
        n=evaluation.n,
        sampling=Sampling(
            evaluation.temperature, evaluation.top_p, evaluation.max_new_tokens or cfg.rollout.max_new_tokens
        ),
        seed=cfg.seed,
        limits=cfg.reward,
        harness=None if harness is None else partial(harness.pieces, chat.tokenizer),
    )


def check_prompts(cfg: Config, evaluator: Evaluator) -> None:
    """ConfigError for a held-out prompt that is too long to be asked: every run measures the same questions."""
    for questions in evaluator.tasks:
        longest = max(map(len, questions.prompts))
        if longest > cfg.rollout.max_prompt_tokens:
            problem = f"task {questions.task} has a held-out prompt of {longest} tokens"
            raise ConfigError("rollout.max_prompt_tokens", problem)
