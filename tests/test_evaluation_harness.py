"""Tasks of lm-eval on the policy in memory, from local files; and our perplexity against lm-eval's."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("lm_eval")

from pcr_run.errors import ConfigError
from pcr_run.evaluation import Cache, Evaluator, Harness
from pcr_run.evaluation.evaluation import perplexity
from pcr_run.run.measuring import measured
from pcr_run.schema import HarnessConfig
from pcr_run.task import language

WIKITEXT = """
task: local_wikitext
dataset_path: json
dataset_kwargs: {{data_files: {{test: {pages}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
process_results: !function process.page
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
"""
PROCESS = r"""
import re
def page(doc, results):
    (logprob,) = results
    return {
        "word_perplexity": (logprob, len(re.split(r"\s+", doc["page"]))),
        "byte_perplexity": (logprob, len(doc["page"].encode())),
    }
"""
MMLU = """
task: local_mmlu_{subject}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {test}, dev: {dev}}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
output_type: multiple_choice
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nAnswer:"
doc_to_choice: ["A", "B"]
doc_to_target: answer
metric_list:
  - metric: acc
"""
GROUP = """
group: local_mmlu
task: [local_mmlu_sums, local_mmlu_words]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
metadata: {version: 2}
"""


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """Texts of which the first two are longer than a window of 64 tokens."""
    sentences = language.unseen(60)
    return [" ".join(sentences[:30]), "\n".join(sentences[30:48]), *sentences[48:]]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, pages: list[str]) -> Path:
    """A directory with a task like WikiText-2's and a group like MMLU."""
    place = tmp_path_factory.mktemp("tasks")
    (place / "pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    (place / "wikitext.yaml").write_text(WIKITEXT.format(pages=place / "pages.jsonl"))
    (place / "process.py").write_text(PROCESS)
    (place / "group.yaml").write_text(GROUP)
    for subject, count in (("sums", 9), ("words", 5)):
        rows = [{"question": f"{i} + 1 ?", "choices": [str(i), str(i + 1)], "answer": i % 2} for i in range(count + 3)]
        for split, part in (("dev", rows[:3]), ("test", rows[3:])):
            (place / f"{subject}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        files = {split: place / f"{subject}_{split}.jsonl" for split in ("dev", "test")}
        (place / f"{subject}.yaml").write_text(MMLU.format(subject=subject, **files))
    return place


@pytest.fixture(scope="module")
def policy(untrained: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(untrained).eval(), AutoTokenizer.from_pretrained(untrained)


def measure(tasks: Path, policy: tuple[Any, Any], *names: str, **options: Any) -> dict[str, Any]:
    harness = Harness(HarnessConfig(list(names), include_path=str(tasks), **options))
    return {piece.label: piece.measure(None) for piece in harness.pieces(policy[1], policy[0])}


@pytest.mark.parametrize("window", [512, 64], ids=["whole documents", "windows of 64 tokens"])
def test_perplexity_agrees_with_lm_eval(tasks, policy, pages, window) -> None:
    model, tokenizer = policy
    found = measure(tasks, policy, "local_wikitext", max_length=window)["local_wikitext"]
    ours = [torch.tensor([tokenizer.eos_token_id, *tokenizer(page)["input_ids"]]) for page in pages]
    assert max(map(len, ours)) > 64
    tokens, words = sum(len(ids) - 1 for ids in ours), sum(len(re.split(r"\s+", page)) for page in pages)
    per_word = perplexity(model, ours, window) ** (tokens / words)
    assert per_word == pytest.approx(found["metrics"]["word_perplexity"]["value"], rel=1e-3)
    assert perplexity(model, ours, 64) != pytest.approx(perplexity(model, ours, 512), rel=1e-6)
    assert found["metrics"]["word_perplexity"]["stderr"] is None or found["metrics"]["word_perplexity"]["stderr"] > 0
    assert found["questions"] == len(pages)


def test_a_group_is_the_mean_over_its_questions_with_its_error(tasks, policy) -> None:
    found = measure(tasks, policy, "local_mmlu", num_fewshot=2)["local_mmlu"]
    right = found["per_question"]
    assert (len(right), found["questions"], found["shots"], str(found["version"])) == (14, 14, 2, "2")
    assert set(right) <= {0.0, 1.0}
    assert found["metrics"]["acc"]["value"] == pytest.approx(np.mean(right))
    assert found["metrics"]["acc"]["stderr"] == pytest.approx(np.std(right, ddof=1) / np.sqrt(14), rel=0.15)
    few = measure(tasks, policy, "local_mmlu", limit=2)["local_mmlu"]
    assert (few["questions"], few["shots"]) == (4, 0)


def test_a_measurement_leaves_no_trace(tasks, policy, capfd) -> None:
    model, tokenizer = policy
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), tokenizer.padding_side
    model.train()
    first = measure(tasks, policy, "local_mmlu", "local_wikitext")
    assert model.training
    model.eval()
    assert first == measure(tasks, policy, "local_mmlu", "local_wikitext")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), tokenizer.padding_side
    assert before[:2] == after[:2]
    assert before[2].equal(after[2])
    assert before[3] == after[3]
    assert capfd.readouterr().out == ""


def test_results_are_kept_by_options_and_data(tasks, policy, tmp_path) -> None:
    cache = Cache({}, tmp_path)

    def once(**options: Any) -> bool:
        harness = Harness(HarnessConfig(["local_mmlu"], include_path=str(tasks), **options))
        evaluator = Evaluator([], [], 1, None, 0, None, lambda model: harness.pieces(policy[1], model))  # type: ignore[arg-type]
        (found,) = measured(evaluator.pieces(policy[0], None), None, 0, cache)  # type: ignore[arg-type]
        return found.cached

    assert [once(), once(), once(num_fewshot=1), once(num_fewshot=1), once(limit=3)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    with (tasks / "sums_test.jsonl").open("a") as file:
        file.write(json.dumps({"question": "?", "choices": ["1", "2"], "answer": 0}) + "\n")
    assert not once()


@pytest.mark.parametrize(
    ("name", "says"),
    [("local_mmluu", "lm-eval has no task 'local_mmluu'"), ("broken", "broken cannot be loaded (")],
)
def test_a_task_that_is_not_known_or_cannot_be_loaded_is_told(tmp_path, name, says) -> None:
    (tmp_path / "broken.yaml").write_text(
        WIKITEXT.format(pages="no/such/file.jsonl").replace("local_wikitext", "broken")
    )
    (tmp_path / "process.py").write_text(PROCESS)
    with pytest.raises(ConfigError) as told:
        Harness(HarnessConfig([name], include_path=str(tmp_path)))
    assert told.value.key == "evaluation.harness.tasks"
    assert told.value.problem.startswith(says)
