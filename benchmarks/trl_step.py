"""A step of TRL's GRPO learner on given tokens: its own reference log-probs, loss, backward and AdamW, no sampling."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from pcr_run.model.tiny import make_tokenizer


def theirs(model: PreTrainedModel, size: Any, data: Any, place: Any) -> Callable[[], object]:
    """One optimizer step over all microbatches. Prompts are padded on the left, as TRL does."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)  # from where TRL loads the reference
        model.config._name_or_path = scratch
        arguments = GRPOConfig(
            output_dir=scratch,
            beta=0.04,
            loss_type="grpo",
            bf16=place.autocast,
            use_cpu=place.device == "cpu",
            gradient_checkpointing=size.checkpointing,
            per_device_train_batch_size=size.rows,
            num_generations=size.group,
            generation_batch_size=max(size.rows, size.group),
            gradient_accumulation_steps=1,
            report_to=[],
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["x"] * size.group}),
            processing_class=make_tokenizer(),
        )
    policy = trainer.model.train()
    if size.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    parts = [inputs(data, start, size.rows, place.device) for start in range(0, len(data.responses), size.rows)]
    trainer.current_gradient_accumulation_steps = len(parts)

    def step() -> None:
        for part in parts:
            ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
            mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
            length = part["completion_ids"].shape[1]
            with torch.no_grad():
                referred, *_ = trainer._get_per_token_logps_and_entropies(trainer.ref_model, ids, mask, length)
            loss = trainer._compute_loss(policy, {**part, "ref_per_token_logps": referred})
            trainer.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inputs(data: Any, start: int, rows: int, device: str) -> dict[str, torch.Tensor]:
    """One microbatch of TRL's."""
    stop = min(start + rows, len(data.responses))
    prompts = [data.prompts[i // data.group] for i in range(start, stop)]
    responses = data.responses[start:stop]
    left, right = max(map(len, prompts)), max(map(len, responses))
    found = {
        "prompt_ids": torch.tensor([[0] * (left - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (left - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([r + [0] * (right - len(r)) for r in responses]),
        "completion_mask": torch.tensor([[1] * len(r) + [0] * (right - len(r)) for r in responses]),
        "advantages": data.advantages[start:stop],
    }
    return {key: value.to(device) for key, value in found.items()} | {
        "num_items_in_batch": torch.tensor(float(data.sampled), device=device)
    }
