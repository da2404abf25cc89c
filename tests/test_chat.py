"""Prompts from templates with arguments, thoughts that a template opened, and what a dry run shows of both."""

from __future__ import annotations

import json
from pathlib import Path

import in_process
import pytest
from transformers import AutoTokenizer

from pcr_run import model
from pcr_run.data import CodeTests, Item
from pcr_run.model.chat import Chat
from pcr_run.reward import answer, make
from pcr_run.schema import ModelConfig, RewardConfig, SandboxConfig

pytest_plugins = ["command_line"]

BODY = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>"
OPENED = {
    "always": (BODY + "<think>\n{% endif %}", {}, ("<think>", "</think>"), True),
    "unless it is told not to": (
        BODY + "{% if enable_thinking | default(true) %}<think>\n{% endif %}{% endif %}",
        {},
        ("<think>", "</think>"),
        True,
    ),
    "told not to": (
        BODY + "{% if enable_thinking | default(true) %}<think>\n{% endif %}{% endif %}",
        {"enable_thinking": False},
        ("<think>", "</think>"),
        False,
    ),
    "an empty thought": (BODY + "<think>\n\n</think>\n\n{% endif %}", {}, ("<think>", "</think>"), False),
    "other tags": (BODY + "[THINK]{% endif %}", {}, ("[THINK]", "[/THINK]"), True),
    "mentioned only": (BODY + "{# <thinking> #}{% endif %}", {}, ("<thinking>", "</thinking>"), False),
    "no thoughts": (BODY + "{% endif %}", {}, ("<think>", "</think>"), False),
}


@pytest.fixture(scope="module")
def tokenizer(untrained: Path):
    return AutoTokenizer.from_pretrained(untrained)


@pytest.mark.parametrize("name", OPENED)
def test_whoever_judges_knows_whether_the_prompt_left_a_thought_open(tokenizer, name):
    template, options, tags, opened = OPENED[name]
    tokenizer.chat_template = template
    chat = Chat(tokenizer, options)
    assert (chat.thinking, chat.opened) == (tags, opened)
    text = chat.decode(tokenizer("so it is 5")["input_ids"])
    assert text == (tags[0] if opened else "") + "so it is 5"
    assert answer.thinks_on(text, tags) is opened


def test_tags_can_be_given(tokenizer):
    tokenizer.chat_template = BODY + "<scratch>{% endif %}"
    assert not Chat(tokenizer).opened
    chat = Chat(tokenizer, {}, ("<scratch>", "</scratch>"))
    assert chat.opened
    assert model.chat(ModelConfig(thinking=["<scratch>", "</scratch>"]), tokenizer).opened


THINKING = ("<think>", "</think>")
JUDGED = {
    "<think>It is \\boxed{5}": ("unparsed", 0.0, True),
    "<think>It is 5.</think> \\boxed{5}": ("correct", 1.0, False),
    "<think>\\boxed{4}</think> \\boxed{5}": ("correct", 1.0, False),
    "<think>a</think> \\boxed{5} <think>\\boxed{6}": ("correct", 1.0, True),
    "no thought: \\boxed{5}": ("correct", 1.0, False),
}


@pytest.mark.parametrize("text", JUDGED)
def test_a_box_inside_a_thought_pays_nothing(text):
    made = make(RewardConfig(name="verifier", verifier="math", format=0.5), SandboxConfig(), thinking=THINKING)
    (score,) = made([Item("1", (), "5")], [text])
    made.close()
    verdict, value, thinking = JUDGED[text]
    assert (score.verdict, score.parts["correctness"], score.thinking) == (verdict, value, thinking)
    assert score.parts["format"] == 0.5 * (value == 1)


def test_a_program_inside_a_thought_is_no_answer():
    made = make(RewardConfig(name="verifier", verifier="sandbox"), SandboxConfig(), thinking=THINKING)
    item, program = Item("1", (), CodeTests("f", ("assert f() == 1",))), "```python\ndef f(): return 1\n```"
    thought, answered = made([item] * 2, [f"<think>{program}", f"<think>x</think>{program}"])
    made.close()
    assert (thought.verdict, answered.verdict) == ("unparsed", "correct")


def test_a_run_pays_no_answer_of_an_open_thought_and_counts_them(untrained: Path, tmp_path: Path, capfd):
    (tmp_path / "template.jinja").write_text(BODY + "<think>\n{% endif %}")
    arguments = ["steps=1", "rollout.prompts=2", "rollout.group=4", "learner.microbatch=8", "rollout.max_new_tokens=8"]
    arguments += [f"model.path={untrained}", "evaluation.questions=2", "evaluation.n=2", "tracker.report=false"]
    arguments += [f"model.chat_template={tmp_path}/template.jinja", f"hydra.run.dir={tmp_path}/run"]
    assert in_process.run(*arguments, "tracker.wandb.mode=disabled") == 0
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (line["unclosed_thoughts"], line["pass_rate"]) == (1.0, 0.0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["scores"]["math"]["after"]["unclosed_thoughts"] == 1.0
    assert "100.0% of the answers never ended their thought" in capfd.readouterr().out


def test_a_dry_run_shows_a_prompt_with_its_special_tokens(command, untrained: Path, tmp_path: Path):
    (tmp_path / "t.jinja").write_text(BODY + "{% if deep %}<think>\n{% endif %}{% endif %}")
    arguments = ["dry_run=true", f"model.path={untrained}", f"model.chat_template={tmp_path}/t.jinja"]
    shown = command(*arguments, "+model.template_options.deep=true")
    assert shown.code == 0, shown.err
    assert "it opens a thought" in shown.out
    assert "<|user|>Compute" in shown.out
    assert "<|end|><|assistant|><think>" in shown.out


def test_a_dry_run_without_the_data_set_shows_a_placeholder(command, untrained: Path):
    shown = command("dry_run=true", "scale=paper", "task=math", f"model.path={untrained}", "rollout=hf")
    assert shown.code == 0, shown.err
    assert "a placeholder" in shown.out
    assert "<|user|>(a question) Let's think step by step" in shown.out


def test_a_template_that_fails_is_told_by_a_dry_run(command, untrained: Path, tmp_path: Path):
    (tmp_path / "t.jinja").write_text(
        "{{ raise_exception('date_string is needed') if not date_string }}" + BODY + "{% endif %}"
    )
    ended = command("dry_run=true", f"model.path={untrained}", f"model.chat_template={tmp_path}/t.jinja")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: model.chat_template: the chat template fails (date_string is needed)")
