"""Worker processes on machines with limits of their own, and where they cannot start at all."""

import ctypes
import errno
import resource
import stat
import subprocess
import sys

import pytest

from pcr_run.errors import RunError
from pcr_run.reward import check, make, verify, workers
from pcr_run.reward.sandbox import probe
from pcr_run.reward.sandbox.isolation import candidates
from pcr_run.schema import RewardConfig, SandboxConfig

LEVELS = sorted({isolation.level for isolation in candidates("auto")})
JUDGE = """
import sys
from pcr_run.data import CodeTests, Item
from pcr_run.reward import check_references, make
from pcr_run.schema import RewardConfig, SandboxConfig
math, code = Item("1", (), r"\\frac12"), Item("2", (), CodeTests("f", ("assert f(2) == 4",)))
check_references([math, code])
made = make(RewardConfig(name="verifier", verifier="math", workers=1), SandboxConfig())
print(made([math], [r"\\boxed{2^{-1}}"])[0].verdict)
made.close()
for level in sys.argv[1:]:
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=1), SandboxConfig(isolation=level))
    print(made([code], ["def f(x): return x * x"])[0].verdict)
    made.close()
"""


def shut_in():
    """What a container or a cluster does: hard limits, and no right to raise them."""
    for name, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_NOFILE, 256)):
        resource.setrlimit(name, (value, value))
    cap_sys_resource, pr_capbset_drop = 24, 24
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_sys_resource, 0, 0, 0)  # fails without a capability to drop


def test_answers_and_programs_are_judged_within_stricter_limits():
    command = [sys.executable, "-c", JUDGE, *LEVELS]
    done = subprocess.run(command, preexec_fn=shut_in, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["correct"] * (1 + len(LEVELS)), done.stderr


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Replaces the interpreter of worker processes by a shell script."""

    def replace(body):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(workers.sys, "executable", str(script))

    for cached in (verify.check_math, probe._choose):
        cached.cache_clear()
    yield replace
    for cached in (verify.check_math, probe._choose):
        cached.cache_clear()


@pytest.mark.parametrize("verifier", ["math", "sandbox"])
def test_a_worker_that_dies_at_its_start_is_an_error_with_its_reason(python, verifier):
    python("echo first >&2; printf '\\033[31mno /dev/shm here\\n' >&2; exit 3")
    with pytest.raises(RunError, match=r"a worker process for rewards did not start: \W\[31mno /dev/shm here$"):
        check(RewardConfig(name="verifier", verifier=verifier), SandboxConfig())


def test_one_that_says_nothing_tells_its_exit_code(python):
    python("exit 3")
    with pytest.raises(RunError, match="did not start: exit code 3"):
        make(RewardConfig(name="verifier", verifier="math"), SandboxConfig())


def test_one_that_is_never_ready_is_not_waited_for(python, monkeypatch):
    monkeypatch.setattr(workers, "START", 0.3)
    python("exec sleep 100")
    with pytest.raises(RunError, match=r"not ready after 0\.3 s"):
        check(RewardConfig(name="verifier", verifier="math"), SandboxConfig())


def test_no_process_left_is_told(python, monkeypatch):
    def full(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(workers.subprocess, "Popen", full)
    with pytest.raises(RunError, match=r"no worker process for rewards can be started: .*temporarily unavailable"):
        check(RewardConfig(name="verifier", verifier="sandbox"), SandboxConfig())


def test_a_worker_without_its_libraries_is_an_error_not_a_wrong_answer(python, tmp_path):
    (tmp_path / "sympy.py").write_text("raise MemoryError('no room')")
    python(f'PYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"')
    with pytest.raises(RunError, match=r"cannot compare 1/2 with 0\.5: MemoryError: no room"):
        check(RewardConfig(name="verifier", verifier="math"), SandboxConfig())
