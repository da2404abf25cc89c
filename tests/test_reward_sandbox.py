"""The code reward: what tests and a candidate may rely on, at both isolation levels."""
# ruff: noqa: E501 - programs on one line

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcr_run.data import CodeTests, Item
from pcr_run.errors import ConfigError, RunError
from pcr_run.reward import check, check_references, make, stop_on_failures
from pcr_run.reward.sandbox import plain, probe
from pcr_run.reward.sandbox.isolation import candidates
from pcr_run.reward.sandbox.judge import Ended, Guest
from pcr_run.schema import RewardConfig, SandboxConfig

LEVELS = sorted({isolation.level for isolation in candidates("auto")})


@pytest.fixture(scope="module", params=LEVELS)
def judge(request):
    """judge(program, tests, ...) -> Score."""
    sandbox = SandboxConfig(isolation=request.param, seconds=2.0, wall_seconds=8.0)
    whole, shares = (
        make(RewardConfig(name="verifier", verifier="sandbox", workers=2, partial=partial, max_failed=1), sandbox)
        for partial in (False, True)
    )

    def run(program, *tests, entry="f", setup="", preamble="", stdio=(), partial=False):
        reference = CodeTests(entry, tests, setup, preamble, stdio)
        (score,) = (shares if partial else whole)([Item("1", (), reference)], [program])
        return score

    yield run
    whole.close()
    shares.close()


def test_both_levels_are_tested_where_the_kernel_has_them():
    assert LEVELS, "neither bubblewrap nor Landlock works here"


SEMANTICS = {
    "state between calls is real": ("n = []\ndef f(): n.append(1); return len(n)", "assert [f(), f(), f()] == [1, 2, 3]"),
    "state lasts from test to test": ("n = []\ndef f(): n.append(1); return len(n)", "f()", "assert f() == 2"),
    "changed arguments are seen": ("def f(a): a.sort(); a.append(9)", "x = [2, 1]\nf(x)\nassert x == [1, 2, 9]"),
    "nested changes are seen": ("def f(d): d['a'][0].add(3)", "x = {'a': ({1}, 2)}\nf(x)\nassert x == {'a': ({1, 3}, 2)}"),
    "changes before an exception are seen": (
        "def f(a): a.clear(); raise KeyError('k')",
        "x = [1]\ntry:\n    f(x)\nexcept KeyError:\n    pass\nassert x == []",
    ),
    "the returned argument is the argument": ("def f(a): return a", "x = [1]\nassert f(x) is x"),
    "shared parts stay shared": ("def f(): x = []; return [x, x]", "a, b = f()\nassert a is b"),
    "subclasses arrive plain": (
        "from collections import *\ndef f():\n    P = namedtuple('P', 'a b')\n    return [P(1, 2), Counter('aa'), OrderedDict(x=1)]",
        "r = f()\nassert r == [(1, 2), {'a': 2}, {'x': 1}]\nassert [type(v) for v in r] == [tuple, dict, dict]",
    ),
    "subclasses cannot lie": (
        "class L(list):\n    def __iter__(self): return iter([7])\n    def __eq__(self, other): return True\ndef f(): return L([1])",
        "assert f() == [1]\nassert f() != [7]",
    ),
    "integers of any length": ("def f(n): return 7 ** n", "assert f(30000) == 7 ** 30000"),
    "nan, infinities and signed zero": (
        "def f(x): return x",
        "import math\nassert math.isnan(f(math.nan))\nassert f(-math.inf) == -math.inf\nassert str(f(-0.0)) == '-0.0'",
    ),
    "bool, int and float differ": ("def f(x): return x", "assert [type(f(v)) for v in (True, 1, 1.0, None)] == [bool, int, float, type(None)]"),
    "text of any kind": ("def f(s): return s[::-1]", r"assert f('a\n\u00e9\ud800\U0001f600\\') == '\\\U0001f600\ud800\u00e9\na'"),
    "recursive structures": ("def f():\n    a = [1]\n    a.append(a)\n    return a", "a = f()\nassert a[1] is a"),
    "deep structures": (
        "def f():\n    a = []\n    for _ in range(50000): a = [a]\n    return a",
        "a = f()\nn = 0\nwhile a:\n    a, n = a[0], n + 1\nassert n == 50000",
    ),
    "keyword arguments": ("def f(a, *, b=1): return a - b", "assert f(3, b=2) == 1\nassert f(3) == 2"),
    "builtin exceptions arrive by name": ("def f(): raise ValueError('v')", "try:\n    f()\n    assert 0\nexcept ValueError as e:\n    assert str(e) == 'v'"),
    "derived exceptions arrive as their builtin base": ("class E(KeyError): pass\ndef f(): raise E", "try:\n    f()\n    assert 0\nexcept KeyError:\n    pass"),
    "standard library": ("import math, re, heapq, itertools, functools, collections, bisect\ndef f(): return math.isqrt(17)", "assert f() == 4"),
    "printing is harmless": ("print('x' * 10**5)\ndef f(): print('PASS'); return 1", "assert f() == 1"),
    "main is not run": ("def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit", "assert f() == 1"),
    "dataclasses": ("from dataclasses import *\n@dataclass\nclass A:\n    x: int\ndef f(): return asdict(A(1))", "assert f() == {'x': 1}"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEMANTICS)
def test_python_semantics_that_tests_rely_on(judge, name):
    program, *tests = SEMANTICS[name]
    score = judge(program, *tests)
    assert (score.verdict, score.value) == ("correct", 1.0), score


FAILURES = {
    "no program": ("", "unparsed"),
    "a syntax error": ("def f(:", "unparsed"),
    "another name": ("def g(): return 1", "unparsed"),
    "a name that is no function": ("f = 1", "unparsed"),
    "another value": ("def f(): return 2", "wrong"),
    "an exception": ("def f(): return 1 / 0", "wrong"),
    "an exception while defining": ("1 / 0\ndef f(): return 1", "wrong"),
    "something not plain": ("def f(): return object()", "wrong"),
    "a deep tuple": ("def f():\n    a = ()\n    for _ in range(10**5): a = (a,)\n    return a", "refused"),
    "a huge value": ("def f(): return 'x' * (9 << 20)", "refused"),
    "a lone surrogate": ("def f(): return '\ud800'", "unparsed"),
    "a null byte": ("def f(): return 1\0", "unparsed"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_have_their_verdict(judge, name):
    program, verdict = FAILURES[name]
    score = judge(program, "assert f() == 1")
    assert score.value == 0
    assert score.verdict == verdict, score


def test_helpers_of_the_tests_run_on_the_trusted_side(judge):
    setup = "def helper(x):\n    return x + 1"
    cheat = "def helper(x):\n    return 0\ndef f(x): return 0"
    assert judge("def f(x): return x + 1", "assert f(1) == helper(1)", setup=setup).verdict == "correct"
    assert judge(cheat, "assert f(1) == helper(1)", setup=setup).verdict == "wrong"


def test_the_preamble_is_put_before_the_candidate(judge):
    assert judge("def f(): return math.pi", "assert f() > 3", preamble="import math").verdict == "correct"


def test_a_preamble_and_a_program_are_two_texts(judge):
    future = "from __future__ import annotations\n"
    program = future + "def f(x: Later) -> Later: return math.pi\nclass Later: pass"
    assert judge(program, "assert f(1) > 3", preamble="import math").verdict == "correct"
    assert judge(program.removeprefix(future), "assert f(1) > 3", preamble=future + "import math").verdict == "correct"
    assert judge("def f(): return 1", "assert f() == 1", preamble="1 / 0").verdict == "wrong"
    assert judge("import math\n" + program, "assert f(1) > 3").verdict == "unparsed"


@pytest.mark.parametrize("level", LEVELS)
def test_more_threads_than_a_program_needs_are_refused(level):
    program = (
        "import _thread, threading\ndef f(n):\n    threading.stack_size(32768)\n    lock = _thread.allocate_lock()\n"
        "    lock.acquire()\n    for _ in range(n): _thread.start_new_thread(lock.acquire, ())\n"
        "    for _ in range(10**9): pass"
    )
    made = make(RewardConfig(name="verifier", verifier="sandbox"), SandboxConfig(isolation=level))
    scores = made([Item(str(n), (), CodeTests("f", (f"f({n})",))) for n in (30, 100)], [program] * 2)
    made.close()
    assert [(score.verdict, "threads" in score.detail) for score in scores] == [("timeout", False), ("refused", True)]


def test_partial_credit_is_the_share_of_tests_passed(judge):
    tests = ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9", "assert f(4) == 0"]
    score = judge("def f(x): return x * x", *tests, partial=True)
    assert (score.value, score.verdict) == (0.75, "wrong")
    assert judge("def f(x): return x * x", *tests).value == 0
    looping = "def f(x):\n    while x > 2: pass\n    return x * x"
    score = judge(looping, *tests, partial=True)
    assert (score.value, score.verdict) == (0.5, "timeout")


STDIO = (("1 2\n", "3\n"), ("5 6", "11"))


@pytest.mark.parametrize(
    ("program", "verdict", "share"),
    [
        ("print(sum(map(int, input().split())))", "correct", 1),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), '  \\n\\n')", "correct", 1),
        (
            "if __name__ == '__main__':\n    print(sum(map(int, input().split())))\n    raise SystemExit(0)",
            "correct",
            1,
        ),
        ("print(sum(map(int, input().split())))\nexit()\nprint(1)", "correct", 1),
        ("print(sum(map(int, input().split())))\nquit(0)", "correct", 1),
        ("print(sum(map(int, input().split())))\nexit(1)", "wrong", 0),
        (
            "import sys, threading\nsys.setrecursionlimit(1 << 20)\nthreading.stack_size(1 << 27)\n"
            "def main():\n    def add(*n): return n[0] + add(*n[1:]) if n else 0\n"
            "    print(add(*map(int, input().split())))\nthreading.Thread(target=main).start()",
            "correct",
            1,
        ),
        ("print(3)", "wrong", 0.5),
        ("print(sum(map(int, input().split())))\n1 / 0", "wrong", 0),
        ("input(); input(); print(3)", "wrong", 0),
        ("while True: print('x' * 1000)", "wrong", 0),
        ("while True: print(end='x' * 1000)", "wrong", 0),
        ("import sys\nprint(3)\nsys.stdout.flush()\nsys.stdout.buffer.write(b'\\0')", "wrong", 0),
        ("print(3)\nimport os\nos.close(1)", "wrong", 0),
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)", "wrong", 0),
        ("while True: pass", "timeout", 0),
        ("print(", "unparsed", 0),
    ],
)
def test_programs_are_judged_by_their_output(judge, program, verdict, share):
    score = judge(program, entry=None, stdio=STDIO, partial=True)
    assert (score.verdict, score.value) == (verdict, share), score


@pytest.mark.parametrize("level", LEVELS)
def test_a_sleeping_program_is_stalled_not_timed_out(level):
    limits = SandboxConfig(isolation=level, seconds=0.5, wall_seconds=2.0)
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=1), limits)
    (score,) = made([Item("1", (), CodeTests("f", ("f()",)))], ["import time\ndef f(): time.sleep(60)"])
    made.close()
    assert score.verdict == "stalled"
    assert 2 <= score.seconds < 8


def test_a_test_that_swallows_everything_cannot_hide_the_end(judge):
    test = "try:\n    f()\nexcept BaseException:\n    pass"
    assert judge("import os\ndef f(): os._exit(0)", test).verdict == "wrong"
    assert judge("def f():\n    while True: pass", test).verdict == "timeout"


@pytest.mark.parametrize("level", LEVELS)
def test_threads_are_an_option_and_processes_are_none(level):
    program = (
        "import os, threading\ndef f():\n    seen = []\n    thread = threading.Thread(target=seen.append, args=(1,))\n"
        "    thread.start(); thread.join()\n    try: os.fork()\n    except OSError: seen.append(2)\n    return seen"
    )
    spin = "import threading\ndef loop():\n    while True: pass\ndef f():\n    for _ in range(3): threading.Thread(target=loop).start()\n    loop()"
    item = Item("1", (), CodeTests("f", ("assert f() == [1, 2]",)))
    for threads, verdicts in ((True, ["correct", "timeout"]), (False, ["wrong", "wrong"])):
        limits = SandboxConfig(isolation=level, seconds=1.0, wall_seconds=8.0, threads=threads)
        made = make(RewardConfig(name="verifier", verifier="sandbox", workers=1), limits)
        assert [score.verdict for score in made([item] * 2, [program, spin])] == verdicts
        made.close()


@pytest.mark.parametrize("level", LEVELS)
def test_files_may_be_forbidden_altogether(level):
    made = make(RewardConfig(name="verifier", verifier="sandbox"), SandboxConfig(isolation=level, file_mb=0))
    program = "import os\ndef f(write): os.write(os.open('/tmp/x', os.O_CREAT | os.O_WRONLY), b'x') if write else os.mkdir('/tmp/y')"
    test = "for write in (True, False):\n    try:\n        f(write)\n        assert False\n    except OSError:\n        pass"
    (score,) = made([Item("1", (), CodeTests("f", (test,)))], [program])
    made.close()
    assert score.verdict == "correct", score


def test_a_call_after_the_end_and_a_test_that_exits(judge):
    ended = "try:\n    f()\nexcept BaseException:\n    pass\n"
    assert judge("import os\ndef f(): os._exit(0)", ended + "f()").verdict == "wrong"
    assert judge("def f(): return 1", "f()\nraise SystemExit(0)").verdict == "error"


def test_a_test_that_passes_no_plain_data_is_an_error_of_the_task(judge):
    assert judge("def f(x): return x", "f(object())").verdict == "error"


def test_a_program_cannot_make_an_error_of_the_task(monkeypatch):
    """A test may compute with what it was given, and hand on more than a message holds."""
    monkeypatch.setattr(plain, "MAX_VALUES", 100)
    with pytest.raises(Ended) as ended:
        Guest(None, SandboxConfig())([float(number) for number in range(100)])
    assert ended.value.verdict == "refused"


def test_too_many_errors_stop_the_run():
    limits = RewardConfig(name="verifier", verifier="sandbox")
    made = make(limits, SandboxConfig())
    with pytest.raises(RunError, match="max_failed"):
        stop_on_failures(limits, made([Item("1", (), CodeTests("f", ("f(object())",)))], ["def f(x): return x"]))
    made.close()


def test_random_programs_get_the_same_reward_every_time(judge):
    program = "import random\ndef f(): return [random.random(), hash('a')]"
    test = "import random\nraise ValueError(str([f(), random.random()]))"
    details = {judge(program, test).detail for _ in range(2)}
    assert len(details) == 1


def test_the_same_program_is_run_once_a_batch(monkeypatch):
    made = make(RewardConfig(name="verifier", verifier="sandbox", workers=1), SandboxConfig())
    jobs = []
    monkeypatch.setattr(made._pool, "map", lambda batch, seconds: jobs.extend(batch) or [None] * len(batch))
    item = Item("1", (), CodeTests("f", ("f()",)))
    assert len(made([item] * 3, ["def f(): 1", "def f(): 1", "def f(): 2"])) == 3
    assert len(jobs) == 2
    made.close()


def test_unknown_names_are_told():
    for key, config in (
        ("reward.name", RewardConfig(name="judge", verifier="math")),
        ("reward.verifier", RewardConfig(name="verifier", verifier="eval")),
        ("reward.path", RewardConfig(name="model", verifier="math")),
    ):
        with pytest.raises(ConfigError) as told:
            check(config, SandboxConfig())
        assert told.value.key == key


def test_bad_tests_are_refused_when_the_data_loads():
    for bad in (CodeTests("f"), CodeTests("f", ("assert (",)), CodeTests("1f", ("f()",)), CodeTests(None)):
        with pytest.raises(ConfigError, match="item 7"):
            check_references([Item("7", (), bad)])


def test_an_isolation_that_does_not_work_stops_before_anything_loads(monkeypatch):
    sandbox = RewardConfig(name="verifier", verifier="sandbox")
    with pytest.raises(ConfigError, match=r"sandbox\.isolation.*choose"):
        check(sandbox, SandboxConfig(isolation="none"))
    monkeypatch.setattr(probe, "candidates", lambda level: [probe.Isolation("bubblewrap", "/usr/bin/false")])
    monkeypatch.setattr(probe.landlock, "version", lambda: 0)
    probe._choose.cache_clear()
    with pytest.raises(ConfigError, match=r"user namespaces.*landlock: version 0"):
        check(sandbox, SandboxConfig())
    probe._choose.cache_clear()


def test_auto_falls_back_to_landlock_where_bubblewrap_does_not_work(monkeypatch):
    levels = [probe.Isolation("bubblewrap", "/usr/bin/false"), probe.Isolation("landlock")]
    monkeypatch.setattr(probe, "candidates", lambda level: levels)
    probe._choose.cache_clear()
    assert probe.isolation(SandboxConfig()).level == "landlock"
    probe._choose.cache_clear()


BROKEN = [
    "",
    "r0",
    "n",
    "n\nr7",
    "n\nx0",
    "q\nr0",
    "l:5\nr0",
    "t:0\nr0",
    "t:1\nn\nr0",
    "l0:\nr0",
    "d0:\nr0",
    "d:1\nn\nr0",
    "e:1\nl:\nr0",
]


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_message_is_no_value(message):
    with pytest.raises(plain.NotPlainError):
        plain.decode(message, [[]] if message.startswith("d0") else [])


def test_a_message_has_a_million_values_at_most(monkeypatch):
    assert plain.MAX_VALUES == 1_000_000
    monkeypatch.setattr(plain, "MAX_VALUES", 100)
    with pytest.raises(plain.NotPlainError, match="too many values"):
        plain.encode(list(range(1000, 1101)))
    with pytest.raises(plain.NotPlainError, match="too many values"):
        plain.decode("n\n" * 101 + "r0")


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = leaves | st.tuples(leaves, leaves) | st.frozensets(leaves, max_size=3)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | st.sets(keys, max_size=3),
    max_leaves=20,
)


@given(values)
def test_plain_data_survives_the_codec(value):
    message, _ = plain.encode(value)
    back, _ = plain.decode(message)
    assert back == value
    assert type(back) is type(value)


@given(st.text(alphabet="nbifsltdezr0123456789:,-x\n", max_size=80))
def test_no_message_does_more_than_fail(message):
    with contextlib.suppress(plain.NotPlainError):
        plain.decode(message)
