"""GRPO raises what a reward model likes: a tiny classifier is trained to like digits, then a policy to please it."""

import json
import random
from pathlib import Path

import in_process
import pytest
import torch
from conftest import save_random
from transformers import AutoTokenizer, Qwen2ForSequenceClassification

STEPS = 16
RUN = (
    f"steps={STEPS} rollout.prompts=8 rollout.group=8 rollout.max_new_tokens=16 learner.lr=1e-2 learner.microbatch=64 "
    "reward=model evaluation=none tracker=none tracker.transcripts=64 checkpoint.every=0"
)


def digits(text: str) -> float:
    """Share of the characters that are digits."""
    return sum(char.isdigit() for char in text) / max(1, len(text))


@pytest.fixture(scope="module")
def admirer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose score is a learned estimate of the share of digits in a response."""
    path = save_random(Qwen2ForSequenceClassification, tmp_path_factory.mktemp("models") / "admirer", num_labels=1)
    model = Qwen2ForSequenceClassification.from_pretrained(path).train()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right")
    tokens = [
        token for token in map(tokenizer.decode, range(len(tokenizer))) if token.isascii() and token.isprintable()
    ]
    numbers = [token for token in tokens if token.isdigit()]
    source = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        chats, goals = [], []
        for _ in range(32):
            share = source.random()
            words = [source.choice(numbers if source.random() < share else tokens) for _ in range(16)]
            chat = [{"role": "user", "content": f"{source.randrange(100)} + 1 = ?"}]
            chats.append([*chat, {"role": "assistant", "content": "".join(words)}])
            goals.append(digits("".join(words)))
        texts = tokenizer.apply_chat_template(chats, tokenize=False)
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0]
        optimizer.zero_grad()
        (logits - torch.tensor(goals)).square().mean().backward()
        optimizer.step()
    assert (logits - torch.tensor(goals)).square().mean() < 0.2 * torch.tensor(goals).var()
    model.eval().save_pretrained(path)
    return path


def test_grpo_raises_the_score_of_a_reward_model(admirer: Path, untrained: Path, tmp_path: Path) -> None:
    places = (f"hydra.run.dir={tmp_path}", f"model.path={untrained}", f"reward.path={admirer}")
    assert in_process.run(*RUN.split(), *places) == 0
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    transcripts = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert len(metrics) == STEPS

    def over(steps: range, name: str) -> float:
        return sum(metrics[step][name] for step in steps) / len(steps)

    first, last = range(3), range(STEPS - 3, STEPS)
    responses = 64 * len(first)
    noise = (2 * over(range(STEPS), "reward_std") ** 2 / responses) ** 0.5
    assert over(last, "reward") - over(first, "reward") > 20 * noise

    shares = {step: [digits(line["response"]) for line in transcripts if line["step"] == step] for step in (1, STEPS)}
    assert sum(shares[STEPS]) > 2 * sum(shares[1])  # the score stands for what it was trained on
