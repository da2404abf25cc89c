"""Hostile programs: each ends as a verdict within its limit, earns nothing and leaves the machine as it was."""
# ruff: noqa: E501 - programs on one line

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcr_run.config import RewardConfig, SandboxConfig
from pcr_run.data import CodeTests, Item
from pcr_run.reward import make
from pcr_run.reward.isolation import candidates

LEVELS = sorted({isolation.level for isolation in candidates("auto")})
TESTS = CodeTests("f", ("assert f(2) == 4", "assert f(3) == 9"))
LIES = "class Yes:\n    def __eq__(self, other): return True\n    def __hash__(self): return 4\n"

# Programs that try to earn the reward without computing squares, or to harm. None defines a right `f`.
ATTACKS = {
    "infinite loop": "while True: pass",
    "infinite loop in a call": "def f(x):\n    while True: pass",
    "infinite loop that ignores signals": "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "infinite loop in C": "def f(x): return 9 ** 9 ** 9",
    "catching everything for ever": "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread bomb": "import threading\nwhile True:\n    try: threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\n    except RuntimeError: pass",
    "processes": "import subprocess, multiprocessing\ndef f(x):\n    subprocess.Popen(['sleep', '1000'])\n    return x * x",
    "posix_spawn": "import os\ndef f(x):\n    os.posix_spawn('/usr/bin/sleep', ['sleep', '1000'], {})\n    return x * x",
    "daemon": "import os\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        while True: pass\n    return x * x",
    "memory bomb": "x = bytearray(1 << 40)",
    "memory bomb by small steps": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "disk fill": "def f(x):\n    k = 0\n    while True:\n        k += 1\n        open(f'/tmp/{k}', 'wb').write(bytes(1 << 20))",
    "output flood": "import sys\nwhile True: sys.stdout.write('x' * 65536); sys.stderr.write('x' * 65536)",
    "flood of the reply pipe": "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'\\xff' * 65536)\n    except OSError: pass",
    "a reply that never ends": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, (1000).to_bytes(8, 'big') + b'n')\n    except OSError: pass\nimport time; time.sleep(100)",
    "a reply of 2**64 bytes": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 8)\n    except OSError: pass",
    "a forged verdict": "import os, sys\nfor fd in range(1, 64):\n    try: os.write(fd, b'{\"verdict\": \"correct\", \"passed\": 1.0, \"seconds\": 0}\\n')\n    except OSError: pass\nos._exit(0)",
    "a pickle bomb": "import os, pickle\nclass B:\n    def __reduce__(self): return os.system, ('touch /tmp/pcr-run-escaped',)\nfor fd in range(3, 64):\n    try: os.write(fd, pickle.dumps(B()))\n    except OSError: pass\nos._exit(0)",
    "sys.exit before the tests": "import sys\nsys.exit(0)",
    "os._exit before the tests": "import os\nos._exit(0)",
    "exit in a call": "def f(x): raise SystemExit(0)",
    "os._exit in a call": "import os\ndef f(x): os._exit(0)",
    "an object equal to all": LIES + "def f(x): return Yes()",
    "an int equal to all": LIES.replace("Yes:", "Yes(int):") + "def f(x): return Yes(5)",
    "a list equal to all": LIES.replace("Yes:", "Yes(list):") + "def f(x): return Yes()",
    "patched builtins": "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.__dict__['exec'] = print\ndef f(x): return 0",
    "patched guest": "import sys\nm = sys.modules['__main__']\nm.encode = lambda *a: ('', [])\nm.tell = lambda *a: None\ndef f(x): return 0",
    "patched frames": "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_locals.update(passed=2)\n    frame.f_globals.update(judge=None)\n    frame = frame.f_back\ndef f(x): return 0",
    "raising AssertionError": "def f(x): raise AssertionError",
    "kill -9 of the parent": "import os\ndef f(x): os.kill(os.getppid(), 9)",
    "kill -9 of all": "import os\ndef f(x): os.kill(-1, 9)",
    "kill of every pid": "import os\ndef f(x):\n    for pid in range(1, 70000):\n        try: os.kill(pid, 9)\n        except OSError: pass",
    "kill of the group": "import os\ndef f(x): os.killpg(0, 9)",
    "segmentation fault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "abort": "import os\ndef f(x): os.abort()",
    "deep recursion": "def f(x): return f(x)",
    "recursion beyond the stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1",
    "a compiler bomb": "def f(x): return " + "(" * 5000 + ")" * 5000,
    "hash collisions": "def f(x): return {k * (2**61 - 1) for k in range(20000)}",
    "a bomb of shared lists": "def f(x):\n    a = [0]\n    for _ in range(100): a = [a, a]\n    return a",
}  # fmt: skip

# What a program may not get: each expression has to raise OSError (or not to give the secret).
FORBIDDEN = {
    "/etc/shadow": "open('/etc/shadow').read()",
    "/etc/passwd": "open('/etc/passwd').read()",
    "the home directory": f"os.listdir({str(Path.home() / '.cache')!r})",
    "the checkout": f"open({str(Path(__file__))!r}).read()",
    "proc of the parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "proc of pid 1": "open('/proc/1/environ').read()",
    "memory of the parent": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "the root of pid 1": "os.listdir('/proc/1/root')",
    "a symlink to the outside": "(os.symlink('/etc/shadow', '/tmp/s'), open('/tmp/s').read())",
    "a hard link to the outside": "os.link('/usr/bin/env', '/tmp/env')",
    "dot dot": "open('/tmp/../../../etc/shadow').read()",
    "writing to /usr": "open('/usr/pcr-run-escaped', 'w')",
    "writing to /": "open('/pcr-run-escaped', 'w')",
    "writing to /var/tmp": "open('/var/tmp/pcr-run-escaped', 'w')",
    "writing to shared memory": "open('/dev/shm/pcr-run-escaped', 'w')",
    "changing modes": "os.chmod('/usr', 0o777)",
    "changing owners": "os.chown('/usr', 1, 1)",
    "changing times": "os.utime('/usr')",
    "extended attributes": "os.setxattr('/usr', 'user.x', b'')",
    "truncating": "os.truncate('/usr/bin/env', 0)",
    "opening to truncate": "os.open('/usr/bin/env', os.O_TRUNC)",
    "TCP": "socket.create_connection(('127.0.0.1', PORT), 1)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "DNS": "socket.getaddrinfo('example.org', 80)",
    "a unix socket": "socket.socket(socket.AF_UNIX).connect('/run/pcr-run')",
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0pcr-run-test')",
    "a socket pair": "socket.socketpair()",
    "setuid": "os.setuid(0)",
    "setsid": "os.setsid()",
    "chroot": "os.chroot('/tmp')",
    "raising limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "limits of the parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "remount": "call('mount', None, b'/usr', None, 0x1020, None)",
    "unshare": "call('unshare', 0x10000000)",
    "ptrace": "call('ptrace', 16, os.getppid(), 0, 0)",
    "memory of another process": "call('syscall', 310, os.getppid(), 0, 0, 0, 0, 0)",
    "io_uring": "call('syscall', 425, 1, 0)",
    "bpf": "call('syscall', 321, 0, 0, 0)",
    "keyrings": "call('syscall', 250, 0, -3, 1)",
    "user faults": "call('syscall', 323, 0)",
    "perf": "call('syscall', 298, 0, 0, -1, -1, 0)",
    "dropping the death signal": "call('prctl', 1, 0, 0, 0, 0)",
    "a signal through a pipe's owner": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "shared memory of the system": "call('shmget', 1234, 4096, 0o1666)",
}  # fmt: skip

PRELUDE = """
import ctypes, fcntl, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
PORT = {port}
def call(name, *args):
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)
def f():
    try:
        {expression}
    except OSError:
        return "denied"
    return "open"
"""


@pytest.fixture(scope="module", autouse=True)
def adopt_orphans() -> None:
    """Whatever a sandbox leaves behind becomes this process's child, so that it can be told from other runs' sandboxes."""
    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def processes() -> set[str]:
    """Sandboxes and their children among what descends from this process or was orphaned by it."""
    parents, commands = {}, {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit():
                parents[path.name] = (path / "stat").read_text().rpartition(")")[2].split()[1]
                commands[path.name] = (path / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue

    def ours(pid: str) -> bool:
        return pid == str(os.getpid()) or (pid in parents and ours(parents[pid]))

    signs = (b"serve(int(sys.argv[1])", b"--unshare-all", b"sleep 1000")
    return {
        f"{pid} {command[:80]!r}"
        for pid, command in commands.items()
        if ours(pid) and any(sign in command for sign in signs)
    }


def shared_files() -> set[Path]:
    return {*Path("/tmp").iterdir(), *Path("/dev/shm").iterdir()}


@pytest.fixture(scope="module", params=LEVELS)
def sandbox(request):
    os.environ["HF_TOKEN"] = os.environ["WANDB_API_KEY"] = "pcr-run-secret"
    limits = SandboxConfig(isolation=request.param, seconds=1.0, wall_seconds=4.0, memory_mb=256)
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=2, max_failed=1), limits)
    yield made
    made.close()
    del os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"]


def run(reward, tests, programs):
    start = time.monotonic()
    scores = reward([Item("1", (), tests)] * len(programs), programs)
    return scores, time.monotonic() - start


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_earns_nothing_and_leaves_nothing(sandbox, name):
    before = shared_files()
    (score,), seconds = run(sandbox, TESTS, [ATTACKS[name]])
    assert score.value == 0
    assert score.verdict in ("wrong", "unparsed", "timeout", "stalled", "refused"), score
    assert seconds < 12
    assert not processes()
    left = shared_files() - before
    assert not {path for path in left if "escaped" in path.name or path.name.isdigit()}


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_outside_stays_out_of_reach(level):
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=2), SandboxConfig(isolation=level))
    tests = CodeTests("f", ("assert f() == 'denied'",))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0pcr-run-test")
        abstract.listen()
        port = server.getsockname()[1]
        programs = [PRELUDE.format(port=port, expression=expression) for expression in FORBIDDEN.values()]
        scores, _ = run(made, tests, programs)
    made.close()
    assert {
        name: score.detail for name, score in zip(FORBIDDEN, scores, strict=True) if score.verdict != "correct"
    } == {}
    assert not list(Path("/").glob("*/pcr-run-escaped")) + list(Path("/").glob("*/*/pcr-run-escaped"))


def test_no_secret_of_the_environment_is_visible(sandbox):
    program = "import os\ndef f(): return sorted(os.environ.items())"
    tests = CodeTests(
        "f", ("assert not [kv for kv in f() if 'secret' in kv[1] or 'TOKEN' in kv[0] or 'KEY' in kv[0]]",)
    )
    (score,), _ = run(sandbox, tests, [program])
    assert score.verdict == "correct", score


def test_workers_hold_no_secret_either(sandbox):
    run(sandbox, TESTS, ["def f(x): return x * x"])
    for worker in sandbox._pool._idle:
        assert b"secret" not in Path(f"/proc/{worker.process.pid}/environ").read_bytes()


def test_no_item_sees_what_another_left(sandbox):
    write = "def f(x):\n    open('/tmp/left', 'w').write('x')\n    return x * x"
    read = "import os\ndef f(x): return x * x if not os.path.exists('/tmp/left') else 0"
    scores, _ = run(sandbox, TESTS, [write, read, write + " ", read + " "])
    assert [score.verdict for score in scores[1::2]] == ["correct", "correct"]


def test_attacks_do_not_disturb_their_neighbours(sandbox):
    good = [f"def f(x): return x * x  # {number}" for number in range(8)]
    bad = [ATTACKS[name] for name in ("fork bomb", "kill -9 of all", "memory bomb", "output flood")]
    scores, _ = run(sandbox, TESTS, [program for pair in zip(good, bad * 2, strict=True) for program in pair])
    assert [score.verdict for score in scores[::2]] == ["correct"] * 8


def test_a_killed_run_leaves_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pcr_run.config import *\nfrom pcr_run.data import *\nfrom pcr_run.reward import make\n"
        "r = make(RewardConfig(name='verifier', verifier='sandbox', workers=2), SandboxConfig(seconds=30, wall_seconds=60))\n"
        "print('go', flush=True)\n"
        "r([Item('1', (), CodeTests('f', ('f()',)))] * 2, ['def f():\\n  while True: pass', 'import time\\ndef f(): time.sleep(50)'])\n"
    )
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"go\n"
    deadline = time.monotonic() + 10
    while len(processes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes()
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 10
    while processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes()
