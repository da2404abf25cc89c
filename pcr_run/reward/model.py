"""A reward model: a sequence classifier with one output, which reads the whole conversation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcr_run.data import Item
from pcr_run.errors import ConfigError, RunError
from pcr_run.schema import RewardConfig

if TYPE_CHECKING:
    import torch


def check_config(path: str, config: dict[str, Any]) -> None:
    """Raise ConfigError when a model's ``config.json`` is not that of a reward model."""
    architectures = config.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        named = ", ".join(architectures) or "no architecture"
        raise ConfigError("reward.path", f"{path} holds {named}; a reward model is a ...ForSequenceClassification")
    labels = config.get("num_labels") or len(config.get("id2label") or {0: "", 1: ""})
    if labels != 1:
        raise ConfigError("reward.path", f"{path} has {labels} labels; a reward model has num_labels=1")


def check_local(path: str) -> None:
    """The same for a directory, without loading anything."""
    file = Path(path).expanduser() / "config.json"
    if file.is_file():
        check_config(path, json.loads(file.read_text()))


class RewardModel:
    """The logit of the classifier's one output for a conversation, in the scale it was trained in."""

    def __init__(self, reward: RewardConfig, device: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        assert reward.path is not None
        path = str(Path(reward.path).expanduser()) if Path(reward.path).expanduser().exists() else reward.path
        try:
            config = AutoConfig.from_pretrained(path)
            self._tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right")
        except (OSError, ValueError) as problem:
            raise ConfigError("reward.path", f"cannot load {path}: {problem}") from problem
        check_config(path, config.to_dict())
        if self._tokenizer.chat_template is None:
            raise ConfigError("reward.path", f"the tokenizer in {path} has no chat template; save one with it")
        if self._tokenizer.pad_token_id is None:
            raise ConfigError("reward.path", f"the tokenizer in {path} has no pad token; set one and save it")
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[reward.dtype]
        self._model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).to(device).eval()
        self._model.config.pad_token_id = self._tokenizer.pad_token_id  # how the classifier finds the last token
        self._longest = getattr(config, "max_position_embeddings", None)
        self._batch, self._dtype = reward.batch, reward.dtype

    def __call__(self, items: Sequence[Item], responses: Sequence[str]) -> list[float]:
        """One logit for each pair, in order."""
        import torch

        chats = [
            [*item.prompt, {"role": "assistant", "content": response}]
            for item, response in zip(items, responses, strict=True)
        ]
        texts = [str(self._tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats]
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))  # little padding
        values = [0.0] * len(texts)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch):
                chosen = order[start : start + self._batch]
                for k, value in zip(chosen, self._logits([texts[k] for k in chosen]).tolist(), strict=True):
                    values[k] = value
        if not all(map(math.isfinite, values)):  # one of them would spoil its group's advantages
            raise RunError(f"the reward model gave a score that is no finite number; reward.dtype={self._dtype}")
        return values

    def _logits(self, texts: list[str]) -> torch.Tensor:
        """[B] from B texts."""
        inputs = self._tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,  # the chat template has written them
            truncation=self._longest is not None,
            max_length=self._longest,
        )
        return (
            self._model(
                input_ids=inputs["input_ids"].to(self._model.device),
                attention_mask=inputs["attention_mask"].to(self._model.device),
            )
            .logits[:, 0]
            .float()
        )
