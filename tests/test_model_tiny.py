"""The embedded model: its tokenizer, its recipe and, slowly, what it scores."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pcr_run import model
from pcr_run.model import builtin, corpus, recipe, tiny
from pcr_run.schema import ModelConfig


@pytest.fixture(scope="module")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("few"))


def build(directory: Path) -> Path:
    tiny.build(directory, 60)
    return directory


@pytest.mark.parametrize(
    "text", ["Compute 3+45-9.", "def f(x):\n    return x[::-1]\n", "naïve 世界 \t 1234\r\n  🙂 \\boxed{7}"]
)
def test_any_text_survives_the_saved_tokenizer(few_steps: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(few_steps)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_saved_tokenizer_cuts_as_the_model_was_trained(few_steps: Path) -> None:
    trained, saved = tiny.make_tokenizer(), AutoTokenizer.from_pretrained(few_steps)
    for document in islice(corpus.documents(5), 500):
        assert saved.encode(document.text) == trained.encode(document.text)


def test_special_tokens_have_the_ids_of_the_recipe(few_steps: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(few_steps)
    assert tokenizer.convert_tokens_to_ids(list(recipe.SPECIAL)) == list(range(len(recipe.SPECIAL)))
    assert (tokenizer.pad_token, tokenizer.eos_token) == (recipe.PAD, recipe.END)
    assert len(tokenizer) == recipe.ARCHITECTURE["vocab_size"]


def test_the_template_closes_every_turn_and_opens_the_answer(few_steps: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(few_steps)
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<|system|>a<|end|><|user|>b<|end|><|assistant|>c<|end|>"
    )


def test_it_is_small_and_its_card_tells_its_size(few_steps: Path) -> None:
    policy = AutoModelForCausalLM.from_pretrained(few_steps)
    assert policy.num_parameters() == recipe.SHAPE["parameters"] <= 2_000_000
    assert type(policy).__name__ == recipe.SHAPE["architectures"][0]


def test_building_twice_gives_the_same_weights_and_leaves_the_random_state(few_steps: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = build(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (again / "model.safetensors").read_bytes() == (few_steps / "model.safetensors").read_bytes()


def test_only_answers_and_texts_are_targets() -> None:
    tokenizer = tiny.make_tokenizer()
    ids, targets = tiny.encode(tokenizer, corpus.Document("Compute 3+4.", "3+4=7\n\\boxed{7}"))
    learned = [token for token in targets if token != tiny.IGNORED]
    assert tokenizer.decode(learned) == "3+4=7\n\\boxed{7}<|end|>"
    assert ids[-len(learned) :] == learned
    assert len(ids) == len(targets)


def test_padding_is_never_a_target() -> None:
    ids, targets = tiny.padded([([5, 6, 7], [tiny.IGNORED, 6, 7]), ([8], [8])], pad=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert targets.tolist() == [[tiny.IGNORED, 6, 7], [8, tiny.IGNORED, tiny.IGNORED]]


def test_progress_is_told_in_a_few_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    pair = (torch.zeros(1), torch.zeros(1))
    assert len(list(tiny.with_progress(iter([pair] * 57), 57))) == 57
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 12
    assert "57 of 57" in lines[-1]


def test_another_recipe_is_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "TINY_SOURCES", builtin.TINY_SOURCES[:-1])
    other = builtin.directory("tiny")
    monkeypatch.undo()
    assert other != builtin.directory("tiny")


def test_each_stage_of_the_model_has_a_place() -> None:
    assert set(recipe.STEPS) | {"smollm2"} == set(builtin.NAMES)
    assert len({builtin.directory(name) for name in recipe.STEPS}) == len(recipe.STEPS)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("threads", [1, 2])
def test_base_scores_lie_between_30_and_60_percent_at_any_thread_count(threads: int, tmp_path: Path) -> None:
    from pcr_run import reward, task
    from pcr_run.schema import RewardConfig, SandboxConfig, TaskConfig

    standing = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tiny.build(tmp_path, recipe.STEPS["tiny"])
    finally:
        torch.set_num_threads(standing)
    policy, tokenizer = model.load(ModelConfig(path=str(tmp_path)))
    torch.manual_seed(0)
    for name, source, verifier in (("math", "arithmetic", "math"), ("code", "functions", "sandbox")):
        items = [item for item in task.make(TaskConfig(name, verifier, {"source": source}), 0).test for _ in range(4)]
        prompts = [
            tokenizer.apply_chat_template(list(item.prompt), tokenize=False, add_generation_prompt=True)
            for item in items
        ]
        ids = policy.generate(
            **tokenizer(prompts, return_tensors="pt", padding=True), do_sample=True, top_k=0, max_new_tokens=64
        )
        asked = tokenizer(prompts, return_tensors="pt", padding=True)["input_ids"].shape[1]
        judge = reward.make(RewardConfig(name="verifier", verifier=verifier), SandboxConfig())
        scores = judge(items, tokenizer.batch_decode(ids[:, asked:], skip_special_tokens=True))
        judge.close()
        assert 0.3 < sum(score.verdict == "correct" for score in scores) / len(scores) < 0.6
