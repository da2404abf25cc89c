"""The files for clusters: linted, and run with stand-ins for what only a cluster has."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
YAML = "{extends: default, rules: {document-start: disable, line-length: {max: 120}}}"


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed (pcr-run[test])")
    return found


def test_shell_scripts_pass_the_linter() -> None:
    assert len(SCRIPTS) == 3
    linted = subprocess.run([tool("shellcheck"), *SCRIPTS], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_yaml_files_pass_the_linter() -> None:
    files = [ROOT / "docker-compose.yaml", LAUNCH, ROOT / "conf"]
    linted = subprocess.run([tool("yamllint"), "--strict", "-d", YAML, *files], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_commands_inside_yaml_pass_the_linter(tmp_path: Path) -> None:
    for step in ("setup", "run"):
        script = tmp_path / f"{step}.sh"
        script.write_text("#!/bin/bash\n" + yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())[step])
        linted = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True)
        assert (linted.returncode, linted.stdout) == (0, "")


def run(script: str, *arguments: str, directory: Path, code: int = 0, **environment: str) -> tuple[int, list[str]]:
    """Exit code and what was called, with ``srun`` ending by ``code`` and ``scontrol`` noting what it is told."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    threads = 'echo "$SRUN_CPUS_PER_TASK ${OMP_NUM_THREADS:-}" > threads'
    for name, body in {
        "srun": f'{threads}; printf "srun|" >> calls; printf "%s|" "$@" >> calls; echo >> calls; exit {code}',
        "scontrol": 'if [[ $1 == show ]]; then echo node7; echo node8; else echo "scontrol|$*" >> calls; fi',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    (directory / "calls").unlink(missing_ok=True)
    ended = subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        cwd=directory,
        env={"PATH": f"{programs}:/usr/bin:/bin", "SLURM_JOB_ID": "5", **environment},
        capture_output=True,
        text=True,
    )
    assert ended.stderr == ""
    return ended.returncode, (directory / "calls").read_text().splitlines()


@pytest.mark.parametrize(("code", "again"), [(0, []), (1, []), (2, []), (143, ["scontrol|requeue 5"])])
def test_a_job_is_put_back_in_the_queue_when_it_can_go_on(tmp_path: Path, code: int, again: list[str]) -> None:
    arguments = ("scale=paper", "run_name=two words")
    ended, calls = run("slurm.sh", *arguments, directory=tmp_path, code=code, SLURM_GPUS_ON_NODE="4")
    assert ended == code
    assert calls == ["srun|pcr-run|launch.nproc=4|scale=paper|run_name=two words|", *again]


def test_several_nodes_meet_at_the_first_one(tmp_path: Path) -> None:
    environment = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_GPUS_ON_NODE": "8"}
    ended, (call,) = run("slurm_nodes.sh", "scale=paper", directory=tmp_path, code=1, **environment)
    assert ended == 1  # it failed at once, and is not tried again
    assert call.startswith("srun|--kill-on-bad-exit=1|torchrun|--nnodes=2|--nproc-per-node=8|")
    assert "|--rdzv-endpoint=node7:20005|" in call
    assert call.endswith("|-m|pcr_run.cli|scale=paper|")
    run("slurm_nodes.sh", directory=tmp_path, SLURM_CPUS_PER_TASK="64", **environment)
    assert (tmp_path / "threads").read_text() == "64 8\n"  # of each torchrun, of each of its processes


def test_an_array_that_is_too_long_says_so(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("resolver=pcr\n")
    command = ["bash", LAUNCH / "slurm_array.sh", "cells", "out"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (2, "cells has no line 2; right: --array=1-1\n")


def test_an_array_runs_a_line_of_overrides_each(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("resolver=pcr seed=0\nresolver=none seed=1")  # no newline at its end
    environment = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "9"}
    ended, calls = run("slurm_array.sh", "cells", "out", "steps=3", directory=tmp_path, code=143, **environment)
    assert ended == 143
    directory = "hydra.run.dir=out/${run_name:}"
    assert calls == [
        f"srun|pcr-run|{directory}|launch.nproc=1|steps=3|resolver=none|seed=1|",
        "scontrol|requeue 9_2",
    ]


@pytest.mark.parametrize("failing", [False, True])
def test_a_ray_sweep_runs_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    def remote(**_options: object):
        return lambda function: types.SimpleNamespace(remote=function)

    stand_in = types.SimpleNamespace(remote=remote, get=list, init=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    commands: list[list[str]] = []

    def ended(command: list[str]) -> types.SimpleNamespace:
        commands.append(command)
        return types.SimpleNamespace(returncode=int(failing and "resolver=none" in command))

    monkeypatch.setattr(subprocess, "run", ended)
    (tmp_path / "cells").write_text("resolver=pcr seed=0\n\nresolver=none\n")
    script = runpy.run_path(str(LAUNCH / "ray_sweep.py"))
    assert script["main"](str(tmp_path / "cells"), "/shared/table", "steps=3") == int(failing)
    head = ["pcr-run", "launch.nproc=1", "hydra.run.dir=/shared/table/${run_name:}", "steps=3"]
    assert commands == [[*head, "resolver=pcr", "seed=0"], [*head, "resolver=none"]]


def test_the_compose_file_keeps_what_outlives_a_container() -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]["pcr-run"]
    places = [volume.split(":")[1] for volume in service["volumes"]]
    owned = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if "install --directory" in line)
    assert all(place in owned.split() for place in places)
    assert service["environment"]["HF_HOME"] in places
