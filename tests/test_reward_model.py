"""The reward model: scores conversations whatever the batch, and refuses what is no reward model."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from pcr_run.data import Item
from pcr_run.errors import ConfigError, RunError
from pcr_run.reward import check, make
from pcr_run.schema import RewardConfig, SandboxConfig

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{{ eos_token }}{% endfor %}"
ITEMS = [Item(str(number), ({"role": "user", "content": text},), "1") for number, text in enumerate(("ab", "a b c d"))]


def config(**options):
    return LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **options
    )


def tokenizer(**options):
    alphabet = {char: number for number, char in enumerate("abcdefghijklmnopqrstuvwxyz 0123\\{}")}
    model = models.WordLevel({**alphabet, "<pad>": 37, "<eos>": 38, "<unk>": 39}, unk_token="<unk>")
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>", **options)


def save(path, model, **options):
    words = tokenizer(**{"pad_token": "<pad>", **options})
    words.chat_template = TEMPLATE
    model.save_pretrained(path)
    words.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A classifier trained to like the letter `z`."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config(num_labels=1, pad_token_id=37))
    words = tokenizer(pad_token="<pad>")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        texts = ["uab<eos>a" + "".join("az"[b] for b in torch.randint(2, (6,)).tolist()) + "<eos>" for _ in range(16)]
        goals = torch.tensor([text.count("z") / 3 - 1 for text in texts])
        logits = model(**words(texts, return_tensors="pt", padding=True, return_token_type_ids=False)).logits[:, 0]
        optimizer.zero_grad()
        (logits - goals).square().mean().backward()
        optimizer.step()
    return save(tmp_path_factory.mktemp("reward"), model.eval())


def reward(path, **options):
    return RewardConfig(name="model", verifier="math", path=path, correctness=0, **options)


def test_scores_follow_what_the_model_was_trained_to_like(path):
    made = make(reward(path), SandboxConfig())
    low, middle, high = (score.value for score in made(ITEMS[:1] * 3, ["aaaaaa", "aazaza", "zzzzzz"]))
    made.close()
    assert low + 0.5 < middle < high - 0.5


def test_scores_do_not_depend_on_the_batch_and_keep_their_order(path):
    responses = ["z", "zazazaza", "a" * 30, "zz"]
    alone, together = (make(reward(path, batch=size), SandboxConfig()) for size in (1, 4))
    a, b = (made([ITEMS[k % 2] for k in range(4)], responses) for made in (alone, together))
    assert [x.value for x in a] == pytest.approx([x.value for x in b], abs=1e-5)
    assert len({x.value for x in a}) == 4
    alone.close()
    together.close()


def test_bfloat16_changes_a_score_little(path):
    low, high = (make(reward(path, dtype=dtype), SandboxConfig()) for dtype in ("bfloat16", "float32"))
    values = [made(ITEMS[:1], ["zazaz"])[0].value for made in (low, high)]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], abs=0.05)
    low.close()
    high.close()


def test_the_verdict_stays_the_verifiers_and_parts_are_weighted(path):
    made = make(RewardConfig(name="model", verifier="math", path=path, correctness=2, model=0.5), SandboxConfig())
    right, wrong = made(ITEMS[:1] * 2, [r"\boxed{1}", r"\boxed{2}"])
    made.close()
    assert (right.verdict, wrong.verdict) == ("correct", "wrong")
    assert (right.parts["correctness"], wrong.parts["correctness"]) == (2, 0)
    assert right.value == sum(right.parts.values())


def test_a_score_that_is_no_number_stops_the_run(path):
    made = make(reward(path), SandboxConfig())
    made._model._model.score.weight.data.fill_(float("nan"))
    with pytest.raises(RunError, match="no finite number"):
        made(ITEMS[:1], ["z"])
    made.close()


def test_a_causal_model_is_refused_before_anything_loads(tmp_path):
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*ForSequenceClassification"):
        check(reward(save(tmp_path, LlamaForCausalLM(config()))), SandboxConfig())


def test_a_classifier_with_several_labels_is_refused(tmp_path):
    model = LlamaForSequenceClassification(config(num_labels=2, pad_token_id=37))
    with pytest.raises(ConfigError, match="2 labels"):
        check(reward(save(tmp_path, model)), SandboxConfig())


def test_a_tokenizer_without_a_pad_token_or_a_template_is_refused(tmp_path):
    model = LlamaForSequenceClassification(config(num_labels=1))
    with pytest.raises(ConfigError, match="pad token"):
        make(reward(save(tmp_path / "pad", model, pad_token=None)), SandboxConfig())
    where = save(tmp_path / "template", model)
    words = tokenizer(pad_token="<pad>")
    (tmp_path / "template" / "chat_template.jinja").unlink()
    words.save_pretrained(where)
    with pytest.raises(ConfigError, match="chat template"):
        make(reward(where), SandboxConfig())


def test_a_missing_path_is_named():
    with pytest.raises(ConfigError, match=r"reward\.path"):
        make(reward("/nowhere/at-all"), SandboxConfig())
