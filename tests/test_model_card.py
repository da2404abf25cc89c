"""A model's card, read without torch, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM

from pcr_run.errors import ConfigError
from pcr_run.model import card
from pcr_run.schema import ModelConfig

LLAMA = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=70,
        tie_word_embeddings=True,
    )
)  # fmt: skip
GPT2 = GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=2, vocab_size=60, n_positions=16))
NEOX = GPTNeoXForCausalLM(
    GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
)


@pytest.fixture
def saved(tmp_path: Path):
    def save(model, **tokenizer) -> Path:
        model.save_pretrained(tmp_path)
        template = {"chat_template": "{{ messages[0]['content'] }}"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**template, **tokenizer}))
        return tmp_path

    return save


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (LLAMA, ("LlamaForCausalLM", 32, 3, 70)),
        (GPT2, ("GPT2LMHeadModel", 24, 2, 60)),
        (NEOX, ("GPTNeoXForCausalLM", 16, 1, 50)),
    ],
)
def test_the_card_agrees_with_the_model(saved, model, shape) -> None:
    about = card.read(ModelConfig(path=str(saved(model))))
    assert (about.architecture, about.hidden, about.layers, about.vocabulary) == shape
    assert about.parameters == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    assert about.has_chat_template


def test_parameters_in_several_files_are_added(tmp_path: Path) -> None:
    LLAMA.save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert card.read(ModelConfig(path=str(tmp_path))).parameters == LLAMA.num_parameters()


def test_a_template_may_stand_in_a_file_of_its_own(saved) -> None:
    directory = saved(LLAMA, chat_template=None)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert card.read(ModelConfig(path=str(directory))).has_chat_template


def test_a_hub_id_that_is_not_here_has_an_open_card() -> None:
    about = card.read(ModelConfig(path="someone/some-model-0"))
    assert about.architecture is None
    assert ("parameters", "unknown") in about.rows()


def test_reading_a_card_imports_neither_torch_nor_transformers(saved) -> None:
    program = (
        "import sys; from pcr_run.model import card; from pcr_run.schema import ModelConfig\n"
        f"card.read(ModelConfig(path={str(saved(LLAMA))!r})); card.read(ModelConfig(builtin='tiny'))\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def refused(**settings) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        card.read(ModelConfig(**settings))
    return error.value


@pytest.mark.parametrize("path", ["/no/such/place", "./missing", "a/b/c", "~/no such"])
def test_a_path_that_is_not_there_is_refused(path: str) -> None:
    assert f"{path} does not exist; give the directory of a model" in str(refused(path=path))


def test_a_missing_directory_beside_others_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "outputs/final does not exist" in str(refused(path="outputs/final"))


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file" in str(refused(path=str(tmp_path / "model.safetensors")))


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    assert "no config.json" in str(refused(path=str(tmp_path)))


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge it" in str(refused(path=str(tmp_path)))


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["LlamaForSequenceClassification"], [], None])
def test_what_is_no_causal_lm_is_refused(saved, architectures) -> None:
    directory = saved(LLAMA)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    assert "not a causal LM" in str(refused(path=str(directory)))


def test_missing_weights_are_refused(saved) -> None:
    directory = saved(LLAMA)
    (directory / "model.safetensors").unlink()
    assert "no weights" in str(refused(path=str(directory)))


@pytest.mark.parametrize("size", [0, 5, 100])
def test_cut_weights_are_refused(saved, size: int) -> None:
    file = saved(LLAMA) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert "no whole safetensors file" in str(refused(path=str(file.parent)))


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_config_is_refused(saved, text: str) -> None:
    directory = saved(LLAMA)
    (directory / "config.json").write_bytes(text.encode("latin1"))
    assert "config.json" in str(refused(path=str(directory)))


def test_a_tokenizer_without_template_is_refused_unless_a_file_has_one(saved, tmp_path: Path) -> None:
    directory = str(saved(LLAMA, chat_template=None))
    error = refused(path=directory)
    assert error.key == "model.chat_template"
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0]['content'] }}")
    assert card.read(ModelConfig(path=directory, chat_template=str(file))).has_chat_template
    assert refused(path=directory, chat_template="no.jinja").key == "model.chat_template"


def test_an_unknown_builtin_is_refused() -> None:
    assert refused(builtin="huge").key == "model.builtin"
