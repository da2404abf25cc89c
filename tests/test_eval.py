"""``pcr-eval`` on models, runs and their checkpoints: results on disk, resumed, compared, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from safetensors.torch import load_file

import pcr_run
from pcr_run.errors import ConfigError
from pcr_run.eval import cli, source
from pcr_run.model import load
from pcr_run.report import cells
from pcr_run.schema import ModelConfig

pytest_plugins = ["command_line"]
SMALL = ["evaluation.questions=4", "evaluation.n=2", "rollout.max_new_tokens=8", "+evaluation.text.documents=5"]


@pytest.fixture(scope="module")
def trained(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two steps with a checkpoint after each."""
    place = tmp_path_factory.mktemp("runs")
    arguments = [f"model.path={untrained}", *SMALL, "steps=2", "tracker=none", "tracker.report=false"]
    arguments += ["rollout.prompts=2", "rollout.group=4", "learner.microbatch=8", "checkpoint.every=1"]
    arguments += ["+model.template_options.tools=[]", "evaluation.cache=false", "learner.lr=0.1"]
    assert in_process.run(*arguments, f"hydra.run.dir={place / 'run'}") == 0
    return place / "run"


@pytest.fixture
def evaluate(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """``evaluate("model.path=...")`` as ``command`` does it for ``pcr-run``, with a cache of its own."""
    monkeypatch.setenv("PCR_RUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(pcr_run.__file__).parents[1]))  # of processes: no fake run
    monkeypatch.setattr("pcr_run.cli.main", cli.main)
    return lambda *arguments: command(*arguments, *SMALL)


def line(directory: Path) -> dict[str, Any]:
    (found,) = (json.loads(text) for text in (directory / "evaluations.jsonl").read_text().splitlines())
    return found


def plain(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.startswith(("time/", "perf/"))}


def test_a_final_model_has_the_scores_that_its_run_found(evaluate, trained, work) -> None:
    ended = evaluate(f"model.path={trained}", "hydra.run.dir=here")
    assert ended.code == 0, ended.err
    ran = [json.loads(text) for text in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert plain(line(work / "here")) == plain(ran[-1])
    assert plain(line(work / "here")) != plain(ran[0])
    parts = {path.stem: json.loads(path.read_text()) for path in (work / "here" / "evaluations").iterdir()}
    assert set(parts) == {"math", "code", "perplexity"}
    assert parts["math"]["tasks"]["math"] == ran[-1]["tasks"]["math"]
    assert parts["perplexity"]["perplexity"] == ran[-1]["perplexity"]
    result = json.loads((work / "here" / "result.json").read_text())
    assert (result["status"], result["model"], result["step"]) == ("complete", str(trained), 2)
    assert (work / "here" / "evaluations.md").read_text() in ended.out
    with pytest.raises(ConfigError, match=r"evaluations by pcr-eval, whose scores are in evaluations\.md"):
        cells.load(work / "here")
    (work / "run").symlink_to(trained)
    assert [cell.directory.name for cell in cells.load(work)] == ["run"]


def test_only_what_is_not_there_or_no_longer_true_is_measured_again(
    evaluate, trained, untrained, work, tmp_path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(untrained, copy)
    arguments = (f"model.path={copy}", "hydra.run.dir=here", "evaluation.cache=false")
    first = evaluate(*arguments)
    assert first.code == 0, first.err
    before = line(work / "here")
    (work / "here" / "evaluations" / "code.json").unlink()
    (work / "here" / "evaluations" / "math.json").write_text('{"key": "damaged')
    again = evaluate(*arguments)
    assert "1 of 3 results are there" in again.out
    assert plain(line(work / "here")) == plain(before)
    shutil.copy(trained / "final" / "model.safetensors", copy)
    other = evaluate(*arguments)
    assert "measuring 3 benchmarks" in other.out
    assert plain(line(work / "here")) != plain(before)


def test_another_directory_finds_it_in_the_cache(evaluate, untrained, work) -> None:
    for name in ("one", "two"):
        assert evaluate(f"model.path={untrained}", f"hydra.run.dir={name}").code == 0
    one, two = line(work / "one"), line(work / "two")
    assert two["perf/cached"] == ["math", "code", "perplexity"]
    assert plain(one) == plain(two)


def test_a_checkpoint_has_the_weights_of_its_step(trained, untrained) -> None:
    final = load_file(trained / "final" / "model.safetensors")
    found = source.find(ModelConfig(path=f"{trained}/checkpoints/step-000002"))
    assert (found.model.path, found.step) == (str(untrained), 2)
    policy, _ = load(found.model)
    assert not all(torch.equal(policy.state_dict()[name], weight) for name, weight in final.items())
    found.restore(policy)
    assert all(torch.equal(policy.state_dict()[name], weight) for name, weight in final.items())
    first = source.find(ModelConfig(path=f"{trained}/checkpoints/step-000001"))
    first.restore(policy)
    assert first.step == 1
    assert not all(torch.equal(policy.state_dict()[name], weight) for name, weight in final.items())


def test_a_run_is_asked_as_it_was_trained_unless_told_otherwise(trained) -> None:
    for path in (trained, trained / "final", trained / "checkpoints" / "step-000001"):
        assert source.find(ModelConfig(path=str(path))).model.template_options == {"tools": []}
    own = source.find(ModelConfig(path=str(trained), template_options={"x": 1}, thinking=["a", "b"]))
    assert (own.model.template_options, own.model.thinking) == ({"x": 1}, ["a", "b"])


def test_several_models_are_compared_with_the_first(evaluate, trained, untrained, work) -> None:
    paths = [str(untrained), f"{trained}/checkpoints/step-000001"]
    ended = evaluate("-m", f"model.path={','.join(paths)}")
    assert ended.code == 0, ended.err
    (table,) = work.glob("outputs/eval-sweep-model.path-*/evaluations.csv")
    rows = list(csv.DictReader(table.open()))
    assert [row["model"] for row in rows if (row["benchmark"], row["score"]) == ("math", "Pass@1")] == paths
    first, second = (row for row in rows if row["benchmark"] == "perplexity")
    assert first["difference"] == ""
    assert float(second["difference"]) == float(second["value"]) - float(first["value"])
    assert table.with_suffix(".md").read_text() in ended.out
    assert len(list(table.parent.glob("eval-*/config.yaml"))) == 2


REFUSED = [
    ("checkpoints", "model.path: {run}/checkpoints names no step; right: {run}/checkpoints/ with step-000001, step-0"),
    ("checkpoints/step-000009", "model.path: {run}/checkpoints/step-000009 is no checkpoint; right: "),
    ("nowhere", "model.path: {run}/nowhere does not exist"),
]


@pytest.mark.parametrize(("path", "says"), REFUSED, ids=[path for path, _ in REFUSED])
def test_a_path_that_is_no_model_is_told_before_anything_starts(evaluate, trained, work, path, says) -> None:
    ended = evaluate(f"model.path={trained}/{path}")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"pcr-eval: error: {says.format(run=trained)}")
    assert list(work.rglob("config.yaml")) == []


def test_a_run_without_a_final_model_names_its_checkpoints(trained, tmp_path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("final"))
    with pytest.raises(ConfigError, match=r"has no final model yet; right: .*step-000001, step-000002"):
        source.find(ModelConfig(path=str(tmp_path / "run")))
    state = tmp_path / "run" / "checkpoints" / "step-000001" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    found = source.find(ModelConfig(path=str(state.parent)))
    with pytest.raises(ConfigError, match=r"is damaged \(state.pt does not match its checksum\); choose another"):
        found.restore(torch.nn.Linear(1, 1))


WRONG = [
    ("evaluation=none", "pcr-eval: error: evaluation: nothing to measure; choose evaluation=paper"),
    ("evaluation.n=0", "pcr-eval: error: evaluation.n: 0 samples measure nothing"),
    ("+task=aime24", "pcr-eval: error: task: aime24 is not measured here; add +task@evaluation.tasks.aime24=aime24"),
    ("evaluation.questionss=1", "pcr-eval: error: evaluation.questionss: no such key"),
]


@pytest.mark.parametrize(("argument", "says"), WRONG, ids=[argument for argument, _ in WRONG])
def test_bad_input_is_one_message_and_2(command, monkeypatch, untrained, argument, says) -> None:
    monkeypatch.setattr("pcr_run.cli.main", cli.main)
    ended = command(f"model.path={untrained}", argument)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(says)


def test_a_dry_run_shows_what_would_be_measured(evaluate, trained, work) -> None:
    path = f"{trained}/checkpoints/step-000001"
    ended = evaluate(f"model.path={path}", "evaluation=paper", "evaluation.harness.num_fewshot=5", "dry_run=true")
    assert ended.code == 0, ended.err
    sampling = "4 samples each, temperature 0.6, top-p 0.95, at most 16,384 tokens"
    for part in ("first 4 of HuggingFaceH4/aime_2024", "64 samples each", sampling, "humaneval5", path):
        assert part in ended.out, part
    assert list(work.rglob("config.yaml")) == []


def test_nothing_heavy_is_imported_for_a_dry_run_or_help(evaluate, untrained) -> None:
    code = "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
    code += "from pcr_run.eval.cli import main; sys.exit(main())"
    for arguments in (
        ["--help"],
        ["dry_run=true", f"model.path={untrained}"],
        ["-m", "dry_run=true", f"model.path={untrained},{untrained}/."],
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert not {"torch", "transformers", "datasets"} & {name.partition(".")[0] for name in done.stderr.split()}
