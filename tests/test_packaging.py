"""What is shipped: the wheel runs outside the checkout, the image is linted, the reference is that of the schema."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from pcr_run.configuration import reference

ROOT = Path(__file__).parent.parent


def test_the_configuration_reference_is_up_to_date():
    assert reference.TARGET.read_text() == reference.render(), "run `make docs`"


def test_the_configuration_reference_names_every_key_and_every_option():
    page = reference.render()
    for key in ("seed", "learner.lr", "tracker.wandb.mode", "checkpoint.every", "hydra.launcher.parallel"):
        assert f"`{key}`" in page
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"`{path.stem}`" in page or path.parent.name == "conf"  # primary configurations are no options


def test_the_dockerfile_passes_the_linter():
    linter = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_is_pinned_not_run_as_root_and_has_an_entry_point_of_its_own():
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "FROM vllm/vllm-openai:v0.32.0"
    instructions = dict(line.split(" ", 1) for line in lines if line.startswith(("USER", "ENTRYPOINT")))
    assert instructions["USER"] not in ("0", "root")
    assert json.loads(instructions["ENTRYPOINT"]) == ["pcr-run"]
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])


def test_the_licence_is_apache_2_0_in_full():
    assert hashlib.md5((ROOT / "LICENSE").read_bytes()).hexdigest() == "3b83ef96387f14655fc854ddc3c6bd57"


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    assert paper["title"] == "On the Plasticity and Stability for Post-Training Large Language Models"
    assert len(paper["authors"]) == 7
    assert paper["identifiers"][0]["value"] == "arXiv:2602.06453"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; dependencies are those of this environment."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # building leaves files behind
    for name in ("conf", "hydra_plugins", "pcr_run"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", place]
    subprocess.run([*build, source], check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    (wheel,) = place.glob("pcr_run-*.whl")
    venv.create(place / "venv", with_pip=False)
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--python", place / "venv/bin/python", "install", "--no-deps", wheel],
        check=True,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )
    (packages,) = (place / "venv/lib").glob("python*/site-packages")
    (here,) = (path for path in map(Path, sys.path) if path.name == "site-packages")
    # a path file makes the dependencies importable without running the finder of the editable checkout beside them
    (packages / "dependencies.pth").write_text(f"{here}\n")
    return place / "venv" / "bin"


def test_an_installed_wheel_composes_and_checks_outside_of_the_checkout(installed, tmp_path):
    where = subprocess.run(
        [installed / "python", "-c", "import pcr_run, pcr_run.conf; print(pcr_run.__file__, *pcr_run.conf.__path__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in where.stdout.replace(str(installed), "")
    for arguments in (["--cfg", "job", "--resolve", "task=code"], ["-m", "dry_run=true", "resolver=pcr,none"]):
        ended = subprocess.run([installed / "pcr-run", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    report = subprocess.run([installed / "pcr-report", tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert report.returncode == 2
    assert "holds no run" in report.stderr
