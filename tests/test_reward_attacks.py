"""Hostile programs: each ends as a verdict within its limit, earns nothing and leaves the machine as it was."""
# ruff: noqa: E501 - programs on one line

import ctypes
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcr_run.data import CodeTests, Item
from pcr_run.reward import make
from pcr_run.reward.sandbox import seccomp
from pcr_run.reward.sandbox.isolation import candidates
from pcr_run.schema import RewardConfig, SandboxConfig

LEVELS = sorted({isolation.level for isolation in candidates("auto")})
TESTS = CodeTests("f", ("assert f(2) == 4", "assert f(3) == 9"))
LIES = "class Yes:\n    def __eq__(self, other): return True\n    def __hash__(self): return 4\n"


def forged(*lines):
    """A program that defines itself and answers its first call with lines of its own (see `plain.py`)."""
    reply = "sreturned", *lines, f"t:0,{len(lines)}", f"r{len(lines) + 1}"
    return (
        "import os, sys\n"
        f"for data in (b'sdefined\\nn\\nt:0,1\\nr2', {chr(10).join(reply).encode()!r}):\n"
        "    data = len(data).to_bytes(8, 'big') + data\n"
        "    while data: data = data[os.write(int(sys.argv[2]), data):]\n"
        "import time; time.sleep(100)"
    )


COLLISIONS = [f"i{k * (2**61 - 1):x}" for k in range(1, 200_000)]  # integers with one and the same hash
NUMBERS = ",".join(map(str, range(1, 200_000)))
INT_80 = rb"\xb8\x02\0\0\0\xcd\x80\xc3"  # fork as a 32-bit program would

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
    "a pickle bomb": "import os, pickle\nclass B:\n    def __reduce__(self): return os.system, ('touch /tmp/pcr-run-escaped',)\nfor fd in range(1, 64):\n    try: os.write(fd, pickle.dumps(B()))\n    except OSError: pass\nos._exit(0)",
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
    "a million directories": "import os\ndef f(x):\n    n = 0\n    while True:\n        n += 1\n        os.mkdir(f'/tmp/{n}')",
    "filling standard input": "import os\ndef f(x):\n    while True: os.write(0, bytes(1 << 16))",
    "a system call of another architecture": f"import ctypes, mmap\ndef f(x):\n    m = mmap.mmap(-1, 4096, prot=7)\n    m.write(b'{INT_80.decode()}')\n    ctypes.CFUNCTYPE(int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n    return x * x",
    "closing every descriptor": "import os\ndef f(x):\n    os.closerange(0, 64)\n    return x * x",
    "another program in its place": "import os, sys\ndef f(x): os.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])",
    "searching memory for the tests": "import gc\ndef f(x): return 4 if any('assert ' + 'f(2)' in repr(o)[:1000] for o in gc.get_objects()) else 0",
    "tracing the tests": "import sys\nseen = []\nsys.settrace(lambda frame, *_: seen.append(frame.f_code.co_filename))\nsys.setprofile(sys.gettrace())\ndef f(x): return 4 if '<string>' in seen[1:] else 0",
    "lying about the class": "class L:\n    __class__ = int\n    def __index__(self): return 4\n    def __eq__(self, other): return True\ndef f(x): return L()",
    "lying about what is inside": "class L(dict):\n    def items(self): return [(1, 4)]\n    __eq__ = lambda self, other: True\n    __class__ = property(lambda self: int)\ndef f(x): return L()",
    "finalizers": "import atexit, os\nclass D:\n    def __del__(self): os.write(1, b'{\"verdict\": \"correct\"}\\n')\natexit.register(D.__del__, D())\ndef f(x): return [D()]",
    "a generator": "def f(x): yield x * x",
    "a coroutine": "async def f(x): return x * x",
    "an integer of a million digits": "def f(x): return 10 ** (10 ** 6)",
    "an argument changed beyond all bounds": "def f(x):\n    f.__defaults__ = ({},) * 10**6\n    return f.__defaults__",
    "a reply by the byte": "import os, sys, time\ndef f(x):\n    os.write(int(sys.argv[2]), (10**6).to_bytes(8, 'big'))\n    while True: os.write(int(sys.argv[2]), b'n'), time.sleep(0.01)",
    "forged hash collisions": forged(*COLLISIONS, "e:" + NUMBERS),
    "forged exponential hashing": forged("n", *(f"t:{k},{k}" for k in range(1, 300)), "e:300"),
    "forged exponential comparison": forged("l:2,2", *(f"l:{k},{k}" for k in range(3, 300)), "l:1", "l:1,300"),
    "forged endless nesting": forged(*(f"l:{k}" for k in range(2, 500_000)), "n"),
    "forged children of others": forged("l7:", "l-1:"),
    "forged children beyond the table": forged("l:" + "9" * 5000),
    "a forged integer of a million digits": forged("i" + "f" * 10**6),
    "a forged name of an exception": forged().replace("returned", "raised"),
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
    "its own memory as a file": "open('/proc/self/mem', 'r+b')",
    "its own root": "os.listdir('/proc/self/root/etc')",
    "its own environment": "open('/proc/self/environ').read()",
    "descriptors of the parent": "open(f'/proc/{os.getppid()}/fd/0')",
    "the terminal": "open('/dev/tty', 'w')",
    "devices": "os.listdir('/sys')",
    "stopping the parent": "os.kill(os.getppid(), 19)",
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
    "typing into the terminal": "fcntl.ioctl(0, 0x5412, b'x')",
    "enlarging a pipe": "fcntl.fcntl(1, 1031, 1 << 20)",
    "a lease": "fcntl.fcntl(0, fcntl.F_SETLEASE, 1)",
    "raw fork": "call('syscall', 56, 17, 0, 0, 0, 0)",
    "the x32 architecture": "call('syscall', 0x40000000 + 41, 2, 1, 0)",
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
    limits = SandboxConfig(isolation=request.param, seconds=1.0, wall_seconds=5.0, memory_mb=256)
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=4, max_failed=1), limits)
    yield made
    made.close()
    del os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"]


@pytest.fixture(scope="module")
def judging():
    """One level: what the trusted side does with what it is told does not depend on it."""
    limits = SandboxConfig(isolation=LEVELS[0], seconds=1.0, wall_seconds=5.0, memory_mb=256)
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=2, max_failed=1), limits)
    yield made
    made.close()


def run(reward, tests, *programs):
    return reward([Item("1", (), tests)] * len(programs), programs)


@pytest.fixture(scope="module")
def outcomes(sandbox):
    """Scores by attack, all of them run side by side, and the files that they left."""
    before = shared_files()
    scores = run(sandbox, TESTS, *ATTACKS.values())
    return dict(zip(ATTACKS, scores, strict=True)), shared_files() - before


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_earns_nothing(outcomes, name):
    score = outcomes[0][name]
    assert score.value == 0
    assert score.verdict in ("wrong", "unparsed", "timeout", "stalled", "refused"), score
    assert score.seconds < 12


def test_attacks_leave_nothing(outcomes):
    assert not processes()
    assert not {path for path in outcomes[1] if "escaped" in path.name or path.name.isdigit()}


RAISED = """
class Hostile(Exception):
    def __str__(self): raise self
    def __eq__(self, other): return True
    __class__ = StopIteration
class Wrong(StopIteration, ValueError): pass
class Meta(type):
    __module__ = property(lambda self: "builtins")
    __name__ = property(lambda self: "StopIteration")
class Named(ValueError, metaclass=Meta): pass
def f(x): raise {}
"""
LOOPS = {
    "map": "for got, want in zip(map(f, [2, 3]), [4, 9]): assert got == want",
    "next": "for got in (next(map(f, [x]), x * x) == x * x for x in (2, 3)): assert got",
    "a generator": "def squares():\n    for x in (2, 3): yield f(x)\nassert all(a == b for a, b in zip(squares(), (4, 9)))",
    "iter with an end": "for got in iter(lambda: f(2), 4): assert got == 4",
    "items by number": "class S:\n    def __getitem__(self, i): return f((2, 3)[i])\nfor got, want in zip(S(), (4, 9)): assert got == want",
    "an attribute": "class S:\n    square = property(lambda self: f(2))\nassert getattr(S(), 'square', 4) == 4",
    "a dictionary": "class S(dict):\n    def __missing__(self, x): return f(x)\nassert S().get(2, 4) == 4 and S()[2] == 4",
    "asynchronous": "import asyncio\nclass S:\n    n = 0\n    def __aiter__(self): return self\n    async def __anext__(self):\n        self.n += 1\n        if self.n > 2: raise StopAsyncIteration\n        return f(self.n)\nasync def main():\n    async for got in S(): assert got in (1, 4)\nasyncio.run(main())",
    "a context": "import contextlib\n@contextlib.contextmanager\ndef given():\n    yield\nwith given():\n    assert f(2) == 4",
    "a wide except": "try:\n    got = f(2)\nexcept (TypeError, ValueError) as problem:\n    got = str(problem)\nassert got == 4",
}
EXCEPTIONS = [
    "StopIteration",
    "StopIteration(4)",
    "StopAsyncIteration",
    "GeneratorExit",
    "SystemExit(0)",
    "KeyboardInterrupt",
]
EXCEPTIONS += ["AssertionError", "IndexError", "AttributeError", "KeyError", "LookupError", "Hostile", "Wrong", "Named"]
EXCEPTIONS += [
    "ExceptionGroup('', [StopIteration()])",
    "BaseExceptionGroup('', [SystemExit(0)])",
    "asyncio.CancelledError",
]


@pytest.mark.parametrize("test", LOOPS)
def test_no_exception_of_a_program_ends_what_its_tests_do(judging, test):
    scores = run(judging, CodeTests("f", (LOOPS[test],)), *("import asyncio" + RAISED.format(e) for e in EXCEPTIONS))
    assert {e: s.verdict for e, s in zip(EXCEPTIONS, scores, strict=True) if s.verdict != "wrong"} == {}
    assert run(judging, CodeTests("f", (LOOPS[test],)), "def f(x): return x * x")[0].verdict == "correct"


MONSTERS = {
    "a number of 5,001 digits": "10 ** 5000",
    "lists, 50,000 deep": "__import__('functools').reduce(lambda a, _: [a], range(50_000), [])",
    "a list of itself": "(lambda a: a.append(a) or a)([])",
    "a terminal's escapes": "'\\x1b[2J\\x1b]0;title\\x07\\u202e' * 9",
    "half a character": "'\\ud800' * 10_000",
    "what raises as text": "type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
}
TELLING = {
    "as a message": "got = f(2)\nassert got == 4, got",
    "in a sentence": "got = f(2)\nassert got == 4, f'{got!r} is not 4'",
    "as an error": "got = f(2)\nif got != 4: raise ValueError(got)",
    "handed on": "got = f(2)\nassert f([got, {1: got}]) == 4",
    "computed with": "got = f(2)\nassert f(got * 2) == 4",
    "as a complex number": "got = f(2)\nf((-1 if got != 4 else 1) ** 0.5)\nassert got == 4",
}


@pytest.mark.parametrize("test", TELLING)
def test_nothing_that_a_program_returns_is_an_error_and_details_are_printable(judging, test):
    forms = "def f(x): return {}", "def f(x): raise Exception({})", "raise Exception({})"
    programs = [form.format(value) for value in MONSTERS.values() for form in forms]
    for program, score in zip(programs, run(judging, CodeTests("f", (TELLING[test],)), *programs), strict=True):
        assert score.verdict in ("wrong", "refused", "timeout"), (program, score)
        assert score.detail.isprintable(), (program, score)
        assert len(score.detail) <= 200, (program, score)


def test_no_frame_that_a_program_writes_is_an_error(judging):
    """Random frames, from bytes to well-formed tables, before and instead of a reply."""
    draw = random.Random(0)
    words = ["n", "b1", "i" + "f" * 5000, "i-", "fnan", "sreturned", "sraised", "sdefined", "snot plain", "sunparsed"]
    words += [
        "sStopIteration",
        "sSystemExit",
        "l:0",
        "l:0,1",
        "t:0,1",
        "d:0,1",
        "e:0",
        "z:0",
        "l0:1",
        "d-1:0,1",
        "r0",
        "r3",
    ]
    words += ["s\\ud800", "s\\x1b[2J", "", "l:" + ",".join("0" * 1000), "t:", "i" + "1" * 100]
    programs = []
    for _ in range(40):
        frames = [("\n".join(draw.choices(words, k=draw.randint(1, 8)))).encode() + b"\nr0" for _ in range(3)]
        if draw.random() < 0.3:
            frames.append(draw.randbytes(draw.randint(0, 50)))
        data = b"".join(len(frame).to_bytes(8, "big") + frame for frame in frames)
        data = draw.choice([data, data[: draw.randint(0, len(data))], draw.randbytes(100)])
        programs.append(f"import os, sys\nos.write(int(sys.argv[2]), {data!r})\ndef f(x): return 0")
    scores = run(judging, TESTS, *programs)
    assert {score.verdict for score in scores} <= {"wrong", "refused", "unparsed", "stalled"}
    assert all(score.value == 0 and score.detail.isprintable() for score in scores)


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_outside_stays_out_of_reach(level):
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=2), SandboxConfig(isolation=level))
    tests = CodeTests("f", ("assert f() == 'denied'",))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0pcr-run-test")
        abstract.listen()
        port = server.getsockname()[1]
        programs = [PRELUDE.format(port=port, expression=expression) for expression in FORBIDDEN.values()]
        scores = run(made, tests, *programs)
    made.close()
    assert {
        name: score.detail for name, score in zip(FORBIDDEN, scores, strict=True) if score.verdict != "correct"
    } == {}
    assert not list(Path("/").glob("*/pcr-run-escaped")) + list(Path("/").glob("*/*/pcr-run-escaped"))


SYSTEM_CALLS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def f(allowed):
    open = []
    for number in range(480):
        if number not in allowed:
            libc.syscall(number, -1, -1, -1, -1, -1, -1)
            if ctypes.get_errno() != errno.EACCES:
                open.append(number)
    return open
"""


def test_every_system_call_beyond_the_list_is_denied(sandbox):
    column = 1 if os.uname().machine == "x86_64" else 2
    calls = [call.split(",") for call in seccomp._ALLOWED.split()]
    harmless = {335, 336} if column == 1 else set()  # uretprobe and uprobe: no filter sees them, they serve no program
    allowed = harmless | {int(call[column]) for call in calls if call[column]}
    # clone3 is "not there", so that the C library uses clone, which is open for threads alone.
    clone, clone3 = (seccomp._GUARDED[name][column - 1] for name in ("clone", "clone3"))
    processes = f"\nlibc.syscall({clone}, 17, 0, 0, 0, 0)\nassert ctypes.get_errno() == errno.EACCES"
    tests = CodeTests("f", (f"assert f({allowed}) == [{clone}, {clone3}]",))
    (score,) = run(sandbox, tests, SYSTEM_CALLS + processes)
    assert score.verdict == "correct", score


def test_no_descriptor_is_inherited_but_the_two_pipes(sandbox):
    program = (
        "import os, stat, sys\ndef f():\n    found = {}\n    for fd in range(64):\n"
        "        try: found[fd] = stat.S_IFMT(os.fstat(fd).st_mode)\n        except OSError: pass\n"
        "    return found, [int(fd) for fd in sys.argv[1:]]"
    )
    test = (
        "import stat\nfound, pipes = f()\n"
        "assert found.pop(0) == stat.S_IFREG and found.pop(1) == found.pop(2) == stat.S_IFCHR\n"
        "assert [found.pop(fd) for fd in pipes] == [stat.S_IFIFO] * 2 and not found, found"
    )
    (score,) = run(sandbox, CodeTests("f", (test,)), program)
    assert score.verdict == "correct", score


def test_no_secret_of_the_environment_is_visible(sandbox):
    program = "import os\ndef f(): return sorted(os.environ.items())"
    tests = CodeTests(
        "f", ("assert not [kv for kv in f() if 'secret' in kv[1] or 'TOKEN' in kv[0] or 'KEY' in kv[0]]",)
    )
    (score,) = run(sandbox, tests, program)
    assert score.verdict == "correct", score


def test_workers_hold_no_secret_either(sandbox):
    run(sandbox, TESTS, "def f(x): return x * x")
    for worker in sandbox._pool._idle:
        assert b"secret" not in Path(f"/proc/{worker.process.pid}/environ").read_bytes()


def test_no_item_sees_what_another_left(sandbox):
    write = "def f(x):\n    open('/tmp/left', 'w').write('x')\n    return x * x"
    read = "import os\ndef f(x): return x * x if not os.path.exists('/tmp/left') else 0"
    scores = run(sandbox, TESTS, write, read, write + " ", read + " ")
    assert [score.verdict for score in scores[1::2]] == ["correct", "correct"]


def test_attacks_do_not_disturb_their_neighbours(sandbox):
    good = [f"def f(x): return x * x  # {number}" for number in range(8)]
    bad = [ATTACKS[name] for name in ("fork bomb", "kill -9 of all", "memory bomb", "output flood")]
    scores = run(sandbox, TESTS, *(program for pair in zip(good, bad * 2, strict=True) for program in pair))
    assert [score.verdict for score in scores[::2]] == ["correct"] * 8


def test_a_killed_run_leaves_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pcr_run.schema import *\nfrom pcr_run.data import *\nfrom pcr_run.reward import make\n"
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
