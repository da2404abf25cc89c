"""The math verifier as a whole: extraction, worker processes, exact equality."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reward_corpus import CORPUS
from reward_found import CORRECT, NOT_CORRECT

from pcr_run.data import Item, Task
from pcr_run.errors import ConfigError, RunError
from pcr_run.reward import answer, check_references, gradable, make, stop_on_failures
from pcr_run.reward.math import equality
from pcr_run.schema import RewardConfig, SandboxConfig

CASES = [(gold, claim, verdict) for verdict, pairs in CORPUS.items() for gold, claim in pairs]


def items(*golds):
    return [Item(str(number), (), gold) for number, gold in enumerate(golds)]


@pytest.fixture(scope="module")
def reward():
    made = make(RewardConfig(name="verifier", verifier="math", seconds=2.0, workers=2, unboxed=0.25), SandboxConfig())
    yield made
    made.close()


@pytest.fixture(scope="module")
def scores(reward):
    """By case. Those that end their worker have other workers than the rest."""
    made = make(RewardConfig(name="verifier", verifier="math", seconds=5.0, workers=2), SandboxConfig())
    judged = {}
    for judge, hostile in ((made, False), (reward, True)):
        cases = [case for case in CASES if (case[2] == "timeout") == hostile]
        claims = [rf"So it is $\boxed{{{claim}}}$." for _, claim, _ in cases]
        judged.update(zip(cases, judge(items(*(gold for gold, _, _ in cases)), claims), strict=True))
    made.close()
    return judged


def test_the_corpus_has_200_cases():
    assert len(set(CASES)) >= 200


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{gold}~{claim}"[:60] for gold, claim, _ in CASES])
def test_answer_gets_its_verdict(scores, case):
    _, claim, verdict = CASES[case]
    score = scores[CASES[case]]
    if claim == r"\boxed{5}":
        verdict = "correct"  # inside a box the inner box is the last one
    assert score.verdict == verdict
    assert score.value == float(verdict == "correct")


def test_answers_of_real_rows_get_their_verdict(reward):
    pairs = [*CORRECT, *NOT_CORRECT]
    judged = reward(items(*(gold for gold, _ in pairs)), [rf"\boxed{{{claim}}}" for _, claim in pairs])
    verdicts = {pair: score.verdict for pair, score in zip(pairs, judged, strict=True)}
    assert {pair: verdicts[pair] for pair in CORRECT if verdicts[pair] != "correct"} == {}
    allowed = ("wrong", "unparsed", "refused")
    assert {pair: verdicts[pair] for pair in NOT_CORRECT if verdicts[pair] not in allowed} == {}


def test_every_gold_answer_of_minerva_is_graded_and_equals_itself(reward):
    rows = (Path(__file__).parent / "minerva_golds.jsonl").read_text().splitlines()
    golds = [json.loads(row)["answer"] for row in rows]
    check_references(items(*golds))
    judged = reward(items(*golds), [rf"\boxed{{{gold}}}" for gold in golds])
    assert len(golds) == 272
    assert {gold: score for gold, score in zip(golds, judged, strict=True) if score.verdict != "correct"} == {}


RADICALS = r"\sqrt{2+\sqrt{3+\sqrt{5}}}+\sqrt{7+\sqrt{6+\sqrt{2}}}", r"\sqrt{11+\sqrt{13}}+\sqrt{2+\sqrt{3+\sqrt{5}}}"


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_verdict_does_not_depend_on_a_random_seed_nor_take_long(seed):
    """CPU time bounds the work; what differs from seed to seed would be the order of sets in SymPy."""
    program = (
        "import resource, sys; from pcr_run.reward.worker import check_answer as c\n"
        "c({'gold': '1', 'answer': r'\\frac{2}{2}', 'seconds': 60.0})\n"
        "start = resource.getrusage(0).ru_utime\n"
        "first = c({'gold': sys.argv[1], 'answer': sys.argv[1] + '+10^{-50}', 'seconds': 60.0})\n"
        "second = c({'gold': sys.argv[1], 'answer': sys.argv[2], 'seconds': 60.0})\n"
        "print(first['verdict'], second['verdict'], resource.getrusage(0).ru_utime - start < 2)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", program, *RADICALS], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["wrong", "wrong", "True"], done.stderr


EXTRACTION = {
    r"\boxed{4} or rather \boxed{5}": "5",
    r"\boxed{5} then \boxed{6": "5",
    r"\boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed{\{1,2\}}": r"\{1,2\}",
    r"<think>\boxed{4}</think> \boxed{5}": "5",
    r"<think>\boxed{5}": None,
    r"\boxed{5} <think>\boxed{6}": "5",
    r"\boxed{4}</think>the answer is 5": None,
    r"\boxed{4}</think><think>\boxed{6}</think>\boxed{5}": "5",
    r"\boxed 5": None,
    r"\boxed{5\}": None,
    r"\boxed{}": "",
    "": None,
    "5": None,
    r"\boxed{\boxed{5}}": "5",
    r"}}}\boxed{5}{{{": "5",
}


@pytest.mark.parametrize("text", EXTRACTION)
def test_the_answer_is_the_last_balanced_box_after_thinking(text):
    assert answer.boxed(text) == EXTRACTION[text]


DOCSTRING = 'def f(x):\n    """Doubles.\n\n    ```\n    >>> f(2)\n    4\n    ```\n    """\n    return 2 * x'
PROGRAMS = {
    f"```python\n{DOCSTRING}\n```": DOCSTRING,
    f"````python\n{DOCSTRING}\n```\n# still inside\n````": f"{DOCSTRING}\n```\n# still inside",
    "~~~python\nf = abs\n~~~": "f = abs",
    "1. First:\n   ```python\n   def f(x):\n       return x\n   ```\n2. Then nothing.": "def f(x):\n    return x",
    "- ```python\n  def f(x):\n      return x\n  ```": "def f(x):\n    return x",
    "  * deep\n\n      ```py\n      f = abs\n      ```": "f = abs",
    "```python\ndef f(x): return x\n```\nUsage:\n```python\nprint(f(2))\n```": "def f(x): return x",
    "```python\ndef f(x): return 1\n```\nBetter:\n```python\ndef f(x): return 2\n```": "def f(x): return 2",
    "```python\nf = lambda x: x\n```\n```python\nassert f == f\nf (1)\n```": "f = lambda x: x",
    "```python\nclass f:\n    pass\n```\n```python\nf()\n```": "class f:\n    pass",
    "```python\nasync def f(): pass\n```\n```python\ndef fg(): f()\n```": "async def f(): pass",
    "```\nold\n```\n```python\nf(1)\n```": "f(1)",
    "```python title=a.py\nf = 1\n```\n```bash\nls\n```": "f = 1",
    "no block at all\n": "no block at all",
}


@pytest.mark.parametrize("text", PROGRAMS)
def test_the_program_is_the_last_block_that_defines_it(text):
    assert answer.program(text, "f") == PROGRAMS[text]


def test_without_an_entry_point_the_last_block_is_the_program():
    assert answer.program("```python\nprint(1)\n```\n```python\nprint(2)\n```") == "print(2)"


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{",
        "{",
        "}",
        "\\",
        "\\boxed{}",
        "<think>",
        "</think>",
        "```python\n",
        "1,",
        "9",
        "- ",
        "1. ",
        " ",
        "\t",
        "~~~\n",
        "f: ",
    ],
)
def test_a_megabyte_of_hostile_text_is_read_in_linear_time(reward, unit):
    start = time.monotonic()
    (score,) = reward(items("42"), [unit * (1_000_000 // len(unit))])
    assert time.monotonic() - start < 5
    assert score.value == 0
    answer.program(unit * (1_000_000 // len(unit)), "f")
    assert time.monotonic() - start < 10


def test_no_box_is_unparsed_and_pays_a_part_for_a_right_last_number(reward):
    texts = ["it is 41, no, 42", "it is 42, no, 41", "", "<think> 42", "1,042 apples"]
    scores = reward(items("42", "42", "42", "42", "1042"), texts)
    assert [score.value for score in scores] == [0.25, 0, 0, 0, 0.25]
    assert {score.verdict for score in scores} == {"unparsed"}


def test_numbers_of_the_question_earn_nothing_unless_they_are_the_answer(reward):
    question = ({"role": "user", "content": "What is 40 + 2 + 0?"},)
    asked = [Item("1", question, "42"), Item("1", question, "42"), Item("2", question, "40")]
    scores = reward(asked, [r"40 + 2 + 0 = \boxed{40}", r"\boxed{40 + 2 + 0}", r"\boxed{40}"])
    assert [score.verdict for score in scores] == ["wrong", "correct", "correct"]


def test_plain_numbers_start_no_process(monkeypatch):
    made, started = make(RewardConfig(name="verifier", verifier="math"), SandboxConfig()), []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: started.append(command))
    scores = made(items(*["42"] * 1000), [rf"\boxed{{{number}}}" for number in range(1000)])
    made.close()
    assert sum(score.value for score in scores) == 1
    assert not started


def test_an_answer_that_hangs_is_a_timeout_and_the_others_are_judged(reward):
    hang = r"\boxed{\binom{1000000000}{500000000}}"
    start = time.monotonic()
    scores = reward(items(*[r"\frac12"] * 8), [r"\boxed{0.5}", hang] + [r"\boxed{2^{-1}}", r"\boxed{\frac 24}"] * 3)
    assert [score.verdict for score in scores] == ["correct", "timeout"] + ["correct"] * 6
    assert time.monotonic() - start < 20


def test_a_gold_answer_that_states_no_value_is_refused_by_row():
    check_references(items("42", r"\frac12", r"(1,2]", "4.5e33"))
    with pytest.raises(ConfigError, match="item 1: the gold answer 'the proof'"):
        check_references(items("42", "the proof", ""))
    assert not any(equality.parses(bad) for bad in ("", r"\phantom{1}", "the proof", "1+", "1:0"))


def held_out(*golds, rule, train=()):
    return Task("t", "math", items(*train), [Item(f"test/{i}", (), gold) for i, gold in enumerate(golds)], rule)


def test_every_item_that_cannot_be_judged_is_named():
    bad = ["the proof", "", r"\phantom{1}", "1+", r"\int x"]
    with pytest.raises(ConfigError) as told:
        check_references(items("42", *bad), "evaluation.tasks.x.data")
    assert "5 of 6 items" in told.value.problem
    assert all(f"{number}" in told.value.problem for number in range(1, 6))
    assert "evaluation.tasks.x.data.ungradable" in told.value.problem


def test_ungradable_items_are_refused_counted_as_wrong_or_dropped_as_asked(caplog):
    with pytest.raises(ConfigError, match="test/1"):
        gradable(held_out("1", "the proof", rule="refuse"))
    kept = gradable(held_out("1", "the proof", "2", rule="wrong"), "k")
    assert [item.id for item in kept.test] == ["test/0", "test/1", "test/2"]
    assert list(kept.unjudged) == ["test/1"]
    assert "test/1" in caplog.text
    made = make(RewardConfig(name="verifier", verifier="math"), SandboxConfig())
    limits = RewardConfig(name="verifier", verifier="math", max_failed=0.0)
    scores = made(kept.test, [r"\boxed{1}", r"\boxed{the proof}", r"\boxed{2}"])
    made.close()
    stop_on_failures(limits, scores)
    assert [score.verdict for score in scores] == ["correct", "wrong", "correct"]
    left = gradable(held_out("1", "the proof", rule="drop", train=("x=", "3")))
    assert [item.id for item in (*left.train, *left.test)] == ["1", "test/0"]
    assert list(left.unjudged) == ["test/1"]
    with pytest.raises(ConfigError, match="no other is left"):
        gradable(held_out("the proof", rule="drop"))


def test_too_many_unparsed_answers_stop_the_run():
    limits = RewardConfig(name="verifier", verifier="math", max_unparsed=0.5)
    made = make(limits, SandboxConfig())
    scores = made(items("1", "1", "1"), [r"\boxed{1}", "1", "2"])
    stop_on_failures(limits, scores[:2])
    with pytest.raises(RunError, match=r"2 of 3 responses got the verdict 'unparsed', more than reward\.max_unp"):
        stop_on_failures(limits, scores)
    made.close()


def test_a_gold_answer_that_states_no_value_is_an_error_not_a_wrong_answer():
    limits = RewardConfig(name="verifier", verifier="math")
    made = make(limits, SandboxConfig())
    with pytest.raises(RunError, match="max_failed"):
        stop_on_failures(limits, made(items(r"\phantom{1}"), [r"\boxed{1}"]))
    made.close()


def test_a_worker_that_died_while_idle_is_replaced():
    made = make(RewardConfig(name="verifier", verifier="math", workers=1), SandboxConfig())
    for _ in range(2):
        (score,) = made(items(r"\frac12"), [r"\boxed{0.5}"])
        assert score.verdict == "correct"
        (worker,) = made._pool._idle
        worker.process.kill()
        worker.process.wait()
    made.close()


def test_an_interrupted_batch_leaves_no_job_behind():
    made = make(RewardConfig(name="verifier", verifier="math", workers=1, seconds=20), SandboxConfig())
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        made(items("1"), [r"\boxed{\binom{1000000000}{500000000}}"])
    signal.signal(signal.SIGALRM, handler)
    assert not made._pool._busy
    assert made(items(r"\frac12"), [r"\boxed{0.5}"])[0].verdict == "correct"
    made.close()


def test_format_is_a_part_of_its_own():
    made = make(RewardConfig(name="verifier", verifier="math", format=0.5), SandboxConfig())
    right, wrong, none = made(items("1", "1", "1"), [r"\boxed{1}", r"\boxed{2}", "1"])
    assert right.parts == {"correctness": 1.0, "format": 0.5}
    assert right.value == 1.5
    assert wrong.parts == {"correctness": 0.0, "format": 0.5}
    assert none.value == 0
    made.close()


WORDS = r"""
\frac \sqrt { } ( ) [ ] ^ _ ! | , ; = < > \leq \pm \cup \{ \} \text{ \binom 1 2 9 99999 x y i e \pi % $ & \\ . : / - +
\in \infty \overline{ \circ \log \sin \lfloor \rfloor \begin{pmatrix} \end{pmatrix} or and cm 1e9 0x1
"""
PIECES = [*WORDS.split(), " ", "\x00", "٣", "é", "\ud800", "\u202e", "½", "⁹", "^{9^{9", "(" * 5, "9" * 500, "{}" * 50]


def garbage(count):
    """Random pieces, and claims of the corpus with random pieces in them."""
    source = random.Random(0)
    texts = []
    for number in range(count):
        if number % 2:
            texts.append("".join(source.choices(PIECES, k=source.randrange(1, 25))))
            continue
        text = source.choice(CASES)[1]
        for _ in range(source.randrange(1, 4)):
            place = source.randrange(len(text) + 1)
            text = text[:place] + source.choice(["", *PIECES]) + text[place + source.randrange(3) :]
        texts.append(text)
    return texts


def check_garbage(count):
    """No hang, no crash, nothing paid, and workers that stay small."""
    made = make(RewardConfig(name="verifier", verifier="math", seconds=1.0, workers=2), SandboxConfig())
    texts = garbage(count)
    earlier = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # children of other tests
    start = time.monotonic()
    scores = made(items(*[r"\sqrt{7}+x^{13}"] * count), [rf"\boxed{{{text}}}" for text in texts])
    assert time.monotonic() - start < 30 + count / 20
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB; of workers that were replaced
    peak = ended if ended > earlier else 0
    for worker in made._pool._idle:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
    made.close()
    strange = [
        (text, score) for text, score in zip(texts, scores, strict=True) if score.verdict in ("error", "correct")
    ]
    assert strange == []
    assert all(score.value == 0 for score in scores)
    assert sum(score.verdict == "timeout" for score in scores) < 10 + count / 100
    assert peak < 1 << 20


def test_garbage_gets_a_verdict():
    check_garbage(500)


@pytest.mark.slow
def test_ten_thousand_pieces_of_garbage_get_a_verdict():
    check_garbage(10_000)
