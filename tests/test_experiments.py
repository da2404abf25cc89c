"""Experiments: primary configurations that are sweeps in themselves, whose cells are plain runs and are shared."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import yaml

import pcr_run
from pcr_run.configuration.compose import fingerprint
from pcr_run.report import experiment as declared
from pcr_run.report.cells import load
from pcr_run.report.option import named
from pcr_run.schema import to_dict

pytest_plugins = ["command_line"]

CONF = Path(pcr_run.__file__).parents[1] / "conf"
GRIDS = {path.stem: yaml.safe_load(path.read_text())["grids"] for path in (CONF / "experiment").glob("*.yaml")}
PAPER = sorted(name for name, grids in GRIDS.items() if "paper" in grids)

OWN = """
title: Of one's own
order: 1
grids:
  embedded:
    - resolver=none,pcr seed=0,1
    - resolver=fixed resolver.alpha=0.2,0.5 seed=0,1
tables:
  - rows: [resolver.name, resolver.alpha]
claims:
  better: {text: it is, statistic: trained, of: {resolver.name: pcr}, against: {resolver.name: none},
    direction: greater, interest: 1}
"""


@pytest.fixture
def own(work):
    """A user's experiment in a directory of their own; gives the arguments that run it."""
    (work / "mine" / "experiment").mkdir(parents=True)
    (work / "mine" / "experiment" / "own.yaml").write_text(OWN)
    (work / "mine" / "study.yaml").write_text(
        "defaults:\n  - experiments\n  - experiment@experiments.own: own\n  - _self_\n"
    )
    return ["--config-dir", "mine", "-cn", "study", "hydra.sweep.dir=here"]


def cells(work: Path) -> list[str]:
    return json.loads((work / "here" / "experiments" / "own.json").read_text())["cells"]


@pytest.mark.parametrize("scale", ["embedded", "smollm2", "paper"])
def test_every_run_of_every_experiment_is_right_at_every_scale_and_made_once(command, scale, monkeypatch):
    find = importlib.util.find_spec
    here = {"lm_eval": find("torch")}  # of scale=paper; a dry run does not need it, and of vLLM only a list of options
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: here.get(name) or find(name, *more))
    without = ["rollout=hf"] if scale == "paper" and find("vllm") is None else []
    ended = command("-cn", "paper", f"scale={scale}", *without, "seed=0", "dry_run=true")
    assert ended.code == 0, ended.err
    assert "cost" in ended.out
    (line,) = [line for line in ended.out.splitlines() if line.startswith("│ runs")]
    files = [yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text()) for name in PAPER]
    grids = [grid.split() for file in files for grid in file["grids"][scale]]
    apart = sum(math.prod(1 + part.count(",") for part in grid if not part.startswith("seed=")) for grid in grids)
    assert 0 < int(line.split("│")[2]) < apart


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in sorted(set(GRIDS) - set(PAPER)) for scale in GRIDS[name]]
)
def test_so_is_every_run_of_those_that_are_not_of_the_paper(command, name, scale):
    ended = command("-cn", name, f"scale={scale}", "seed=0", "dry_run=true")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_every_experiment_has_a_name_of_its_own(command, name):
    ended = command("-cn", name, "--cfg", "job")
    assert ended.code == 0, ended.err
    assert list(yaml.safe_load(ended.out)["experiments"]) == [name]


def test_everything_is_all_experiments():
    assert all((CONF / f"{name}.yaml").is_file() for name in ("paper", *GRIDS))
    text = (CONF / "paper.yaml").read_text()
    assert [name for name in sorted(GRIDS) if f"experiment@experiments.{name}: {name}\n" in text] == PAPER


def test_an_experiment_is_the_union_of_its_grids_and_is_continued(command, work, own):
    ended = command(*own)
    assert ended.code == 0, ended.err
    assert len(cells(work)) == 8
    assert all((work / "here" / cell / "result.json").exists() for cell in cells(work))
    assert [cell.split("-")[3] for cell in cells(work)] == ["seed0", "seed1"] * 4
    given = declared.read(work / "here" / "experiments" / "own.json")  # what it declares is right for the report
    assert given["claims"]["better"]["interest"] == 1
    again = command(*own)
    assert "8 already complete" in again.out


def test_figures_of_objectives_show_every_option_that_is_tried(command, work, monkeypatch):
    found = []
    monkeypatch.setattr("pcr_run.configuration.dry_run.matrix", found.extend)
    ended = command("-cn", "objectives", "seed=0", "dry_run=true", "hydra.sweep.dir=here")
    assert ended.code == 0, ended.err
    for cfg, directory in found:
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(yaml.safe_dump(to_dict(cfg), sort_keys=False))
    tried = [cell.option for cell in named(load(work / "here"))]
    assert len(set(tried)) == len(tried) > 10
    figures = yaml.safe_load((CONF / "experiment" / "objectives.yaml").read_text())["figures"]
    assert {option for figure in figures for option in figure["where"]["option"]} == set(tried)


def test_each_of_its_runs_can_be_typed_without_it(command, work, own):
    command(*own, "seed=0")
    (cell,) = [cell for cell in cells(work) if "fixed0.2" in cell]
    command("resolver=fixed", "resolver.alpha=0.2", "hydra.run.dir=alone")
    configs = [yaml.safe_load((place / "config.yaml").read_text()) for place in (work / "alone", work / "here" / cell)]
    assert fingerprint(configs[0]) == fingerprint(configs[1])
    assert cell.endswith(fingerprint(configs[0]))


def test_the_command_line_wins_over_the_grids(command, work, own):
    command(*own, "seed=7", "resolver.alpha=0.9")
    assert sorted(cell.rsplit("-", 1)[0] for cell in cells(work)) == [
        "tiny-math-fixed0.9-seed7",
        "tiny-math-none-seed7",
        "tiny-math-pcr-seed7",
    ]


@pytest.mark.parametrize(
    ("line", "key"),
    [("steps: 3", "steps"), ("rollout: {temperature: 0.7}", "rollout.temperature"), ("- override task: code", "task")],
)
def test_what_its_runs_would_not_read_is_refused(command, work, own, line, key):
    file = work / "mine" / "study.yaml"
    default = line.startswith("-")
    file.write_text(
        file.read_text().replace("  - _self_\n", f"  {line}\n  - _self_\n" if default else f"  - _self_\n{line}\n")
    )
    ended = command(*own)
    assert ended.code == 2
    assert key in ended.err
    assert "study.yaml" in ended.err
    assert "grids" in ended.err
    assert not (work / "here").exists()


def test_what_is_said_of_experiments_is_not_said_to_their_runs(command, work, own):
    elsewhere = work / "elsewhere" / "experiment"
    elsewhere.mkdir(parents=True)
    (elsewhere / "far.yaml").write_text(OWN.replace("seed=0,1", "seed=2,3"))
    file = work / "mine" / "study.yaml"
    file.write_text(file.read_text().replace("  - _self_\n", "  - experiment@experiments.far: far\n  - _self_\n"))
    found = f"hydra.searchpath=[file://{elsewhere.parent}]"
    both = command(*own, found, "dry_run=true")
    one = command(*own, found, "~experiment@experiments.far", "experiments.own.order=2", "dry_run=true")
    assert (both.code, one.code) == (0, 0), both.err + one.err
    assert ("seed2" in both.out, "seed2" in one.out, "seed0" in one.out) == (True, False, True)


def test_an_experiment_can_be_added_to_the_plain_configuration(command, work):
    ended = command("-m", "+experiment@experiments.fig3=fig3", "seed=0", "dry_run=true", "hydra.sweep.dir=here")
    assert ended.code == 0, ended.err
    assert "cost" in ended.out


def test_claims_are_fixed_before_the_runs(command, work, own):
    file, path = work / "mine" / "experiment" / "own.yaml", work / "here" / "experiments" / "own.json"
    of_one_arm = OWN.replace("    - resolver=fixed resolver.alpha=0.2,0.5 seed=0,1\n", "").replace("none,pcr", "none")
    file.write_text(of_one_arm)
    command(*own, "seed=0")
    first = json.loads(path.read_text())
    assert len(first["fixed"]) == 1
    command(*own, "seed=0,1")
    assert json.loads(path.read_text())["fixed"] == first["fixed"]
    file.write_text(of_one_arm.replace("interest: 1", "interest: 2"))
    command(*own, "seed=0")
    assert json.loads(path.read_text())["fixed"][0]["sha256"] == first["fixed"][0]["sha256"]
    assert len(json.loads(path.read_text())["fixed"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("embedded:", "paper:", "experiments.own.grids", "no grid for scale=embedded"),
        ("direction: greater", "direction: up", "experiments.own.claims.better.direction", "greater"),
        ("direction: greater", "direction: equal", "experiments.own.claims.better.interest", "above 0"),
        ("interest: 1", "interst: 1", "experiments.own.claims.better.interst", "interest"),
        ("resolver=none,pcr", "resolver=none,prc", "resolver", "pcr"),
        ("tables:", "figures: [{kind: pie}]\ntables:", "experiments.own: figures[0].kind", "right is one of curves"),
        ("of: {resolver.name", "of: {resolver.nam", "claims.better.of", "did you mean resolver.name?"),
    ],
)
def test_a_wrong_experiment_is_refused_before_any_run(command, work, own, old, new, key, problem):
    text = OWN.replace("interest: 1", "interest: 0") if "equal" in new else OWN
    (work / "mine" / "experiment" / "own.yaml").write_text(text.replace(old, new))
    ended = command(*own)
    assert ended.code == 2
    assert key in ended.err
    assert problem in ended.err
    assert not list(work.glob("here/*/result.json"))
