"""Every code block of README and docs, as a stranger would type it, with a fake run in the place of training."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import in_process
import pytest
import yaml

from pcr_run.report import cli as report

pytest_plugins = ["command_line"]

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^\n)((?:^    .*\n)+)", re.MULTILINE)
DRAWN = re.compile("[─►│]")
COMMAND = re.compile(r"^(pcr-run|pcr-eval|pcr-report|make|python|pip|docker|git) ")


@dataclass(frozen=True)
class Block:
    """A code block: its file, its language (empty where it is indented) and its text."""

    file: str
    language: str
    text: str


def blocks() -> list[Block]:
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        found += [Block(path.name, match[1], match[2]) for match in FENCE.finditer(text)]
        plain = FENCE.sub("", text)
        found += [Block(path.name, "", re.sub("^    ", "", m[1], flags=re.MULTILINE)) for m in INDENTED.finditer(plain)]
    return found


BLOCKS = blocks()
LINES = [
    (block.file, line.split("  #")[0].strip(), line)
    for block in BLOCKS
    if block.language in ("", "sh")
    for line in block.text.splitlines()
    if COMMAND.match(line) and not DRAWN.search(line)
]
RUNS = list({case[1]: case for case in LINES if case[1].startswith("pcr-run")}.values())


def test_no_kind_of_block_is_left_out():
    assert {block.language for block in BLOCKS} <= {"", "sh", "python", "yaml"}
    unread = [b for b in BLOCKS if b.language in ("", "sh") and not all(map(COMMAND.match, b.text.splitlines()))]
    assert [block for block in unread if not DRAWN.search(block.text)] == []
    assert len(RUNS) > 15


@pytest.mark.parametrize(("file", "typed", "line"), RUNS, ids=[f"{file}: {typed}" for file, typed, _ in RUNS])
def test_a_command_of_the_documentation_runs(command, work, untrained, file, typed, line):
    if re.search("rollout=vllm|scale=paper", typed) and importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM")
    if "--config-dir mine" in typed:
        write_own_files(work)
    arguments = shlex.split(typed)[1:]
    # A sweep starts a process for each cell, several ranks as many; a dry run composes and checks them in this one.
    apart = "-m" in arguments or "-cn" in arguments or "launch.nproc" in typed
    more = ["dry_run=true"] if apart else []
    if "-cn" in arguments:  # hundreds of runs; tests/test_experiments.py composes those of a seed
        more = ["seed=0", *more] if len(arguments) > 2 else ["--cfg", "job"]
    ended = command(*arguments, *(each for each in more if each not in arguments))
    assert ended.code == 0, ended.err
    if "scale=paper" in typed:
        assert "needs the network" in line


def write_own_files(directory: Path) -> None:
    """The files of sections on something of one's own, under the names that the text gives them."""
    for page in ("method.md", "report.md"):
        text = (ROOT / "docs" / page).read_text()
        for name, content in re.findall(r"`(mine/[\w/.]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content)


def test_the_resolver_of_the_documentation_trains(untrained, tmp_path, monkeypatch):
    write_own_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-dir", "mine", "resolver=half", f"model.path={untrained}", "steps=2", "rollout.prompts=2"]
    arguments += ["rollout.max_new_tokens=8", "learner.microbatch=16", "evaluation=none"]
    assert in_process.run(*arguments, "tracker.wandb.mode=disabled") == 0


def test_the_report_of_the_documentation_is_made_of_its_sweep(command, work, monkeypatch):
    (sweep,) = [typed for file, typed, _ in LINES if file == "README.md" and "seed=0,1,2,3,4" in typed]
    (typed,) = [typed for _, typed, _ in LINES if typed.startswith("pcr-report")]
    assert command(*shlex.split(sweep.replace("seed=0,1,2,3,4", "seed=0,1"))[1:]).code == 0
    (directory,) = work.glob(typed.split()[1])
    monkeypatch.setattr(sys, "argv", ["pcr-report", str(directory)])
    assert report.main() == 0


@pytest.mark.parametrize("typed", sorted({typed for _, typed, _ in LINES if typed.startswith("make ")}))
def test_a_target_of_the_documentation_is_there(typed):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(typed.split()[1:]) <= set(targets)


@pytest.mark.parametrize("typed", sorted({typed for _, typed, _ in LINES if typed.startswith("python ")}))
def test_a_benchmark_of_the_documentation_takes_its_options(typed):
    _, script, *arguments = typed.split()
    known = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", (ROOT / script).read_text()))
    assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.file)
def test_python_of_the_documentation_runs(block):
    exec(compile(block.text, block.file, "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: b.file)
def test_yaml_of_the_documentation_is_yaml(block):
    assert yaml.safe_load(block.text)


def test_files_that_the_documentation_names_exist():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text()
        named = set(re.findall(r"\b(?:pcr_run|tests|benchmarks|conf|docs)/[\w/.-]*\w\.(?:py|md|yaml)\b", text))
        assert [name for name in sorted(named) if not (ROOT / name).exists()] == [], path.name
