"""The command as a user types it: exit codes, messages, logs, help, completion, own configurations."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import yaml

pytest_plugins = ["command_line"]


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_a_run_ends_with_0_and_leaves_its_resolved_configuration(command, work):
    assert command("steps=7", "task=code").code == 0
    directory = only(work, "outputs/code-pcr-seed0-steps7-*")
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["steps"] == 7
    assert config["reward"]["verifier"] == "sandbox"
    assert json.loads((directory / "result.json").read_text())["status"] == "complete"


def test_the_same_command_uses_the_same_directory_and_another_one_another(command, work):
    for _ in range(2):
        command("steps=7", "learner.lr=1e-5")
    command("learner.lr=1e-5", "steps=7", "checkpoint.every=3", "tracker.wandb.mode=disabled")
    assert len(list(work.glob("outputs/*"))) == 1
    command("steps=7", "learner.lr=2e-5")
    assert len(list(work.glob("outputs/*"))) == 2


def test_values_with_slashes_and_spaces_give_one_plain_directory_name(command, work):
    command("resolver.pattern='layers/.* mlp'", "learner.betas=[0.9,0.99]")
    (name,) = (path.name for path in (work / "outputs").iterdir())
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


@pytest.mark.parametrize(
    ("behaviour", "code", "says"),
    [
        ("bad data", 2, "error: task.data.path: empty; right is a file with rows\n"),
        ("failed", 1, "error: 3 updates in a row were not finite\n"),
        ("bug", 1, "error: ZeroDivisionError: by nothing (traceback in "),
        ("full", 1, "metrics.jsonl: no space left; free some"),
        ("quota", 1, ": no space left; free some"),
    ],
)
def test_an_error_is_one_line_on_the_terminal_and_a_traceback_in_the_log(command, work, behaviour, code, says):
    ended = command(pcr=behaviour)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("pcr-run: error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    directory = only(work, "outputs/*")
    assert "Traceback" in (directory / "run.log").read_text()
    result = json.loads((directory / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["reason"] in ended.err
    assert (result["task"], result["resolver"], result["seed"]) == ("math", "pcr", 0)


def test_a_log_that_cannot_be_written_does_not_hide_the_reason(command, work):
    (work / "here").mkdir()
    (work / "here" / "run.log").symlink_to("/dev/full")
    ended = command("hydra.run.dir=here", pcr="full")
    assert ended.code == 1
    assert ended.err.startswith("pcr-run: error: ")
    assert "metrics.jsonl: no space left" in ended.err
    assert ended.err.count("\n") == 1


def test_a_failed_run_can_be_started_again_with_the_same_command(command, work):
    assert command(pcr="failed").code == 1
    assert command().code == 0
    assert json.loads((only(work, "outputs/*") / "result.json").read_text())["status"] == "complete"


def test_a_directory_of_another_configuration_is_left_as_it_is(command, work):
    command("hydra.run.dir=here", "steps=5")
    before = {path: path.read_bytes() for path in (work / "here").iterdir()}
    ended = command("hydra.run.dir=here", "steps=6")
    assert ended.code == 2
    assert "steps: 5 there, 6 here" in ended.err
    assert {path: path.read_bytes() for path in (work / "here").iterdir()} == before


def test_resume_never_leaves_an_existing_run_as_it_is(command, work):
    command("hydra.run.dir=here")
    before = {path: path.read_bytes() for path in (work / "here").iterdir()}
    ended = command("hydra.run.dir=here", "resume=never")
    assert (ended.code, ended.err[:24]) == (2, "pcr-run: error: resume: ")
    assert {path: path.read_bytes() for path in (work / "here").iterdir()} == before


def test_bad_input_shows_no_traceback_in_a_real_process(shell):
    process = shell("learner.klx=k1")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == "pcr-run: error: learner.klx: no such key; did you mean learner.kl?\n"


@pytest.mark.parametrize("arguments", [("--no-such-flag",), ("-cn", "no_such_config"), ("--config-dir", "no/such/dir")])
def test_flags_that_are_wrong_end_with_2(command, arguments):
    ended = command(*arguments)
    assert ended.code == 2
    assert arguments[-1] in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_resumable(shell, work, wait_for, number, code):
    process = shell(pcr="slow")
    wait_for(lambda: list(work.glob("outputs/*/metrics.jsonl")))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert err == "pcr-run: interrupted; the same command goes on from the newest checkpoint\n"
    assert json.loads((only(work, "outputs/*") / "result.json").read_text())["status"] == "interrupted"
    again = shell()
    again.communicate(timeout=20)
    assert again.returncode == 0


def test_two_processes_do_not_share_a_directory_and_a_killed_one_does_not_hold_it(shell, work, wait_for):
    first = shell(pcr="slow")
    wait_for(lambda: list(work.glob("outputs/*/metrics.jsonl")))
    second = shell()
    _, err = second.communicate(timeout=20)
    assert second.returncode == 2
    assert "another process is running in" in err
    first.kill()
    first.communicate()
    third = shell()
    third.communicate(timeout=20)
    assert third.returncode == 0


def test_help_says_what_can_be_chosen(shell):
    out, err = shell("--help", program=(str(Path(sys.executable).with_name("pcr-run")),)).communicate()
    assert err == ""
    for part in (
        "resolver: cagrad, fixed, gac, gradvac, mgda, mgs, none, pcgrad, pcr",
        "Exit codes",
        "pcr-run -m ",
        "--config-dir",
        "dry_run=true",
    ):
        assert part in out
    assert "$" not in out.replace('"$(pcr-run', "")


def test_the_whole_configuration_can_be_printed(command):
    config = yaml.safe_load(command("--cfg", "job", "--resolve", "task=code").out)
    assert config["reward"]["verifier"] == "sandbox"
    assert config["task"]["data"]["source"]
    assert "hydra" not in config


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("resolver=p", {"resolver=pcr", "resolver=pcgrad", "resolver=pcr_literal"}),
        ("learner.clip_", {"learner.clip_low=", "learner.clip_high="}),
        ("tas", {"task", "task."}),
    ],
)
def test_tab_completes_groups_options_and_keys(command, monkeypatch, typed, completions):
    line = f"pcr-run {typed}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert completions <= set(command("-sc", "query=bash").out.split())


def test_nothing_heavy_is_imported_for_help_bad_input_or_a_dry_run(shell):
    code = "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
    code += "from pcr_run.cli import main; sys.exit(main())"
    commands = {"--help": 0, "--cfg job": 0, "dry_run=true": 0, "-m dry_run=true seed=0,1": 0, "steps=-1": 2}
    for arguments, ends in commands.items():
        process = shell(*arguments.split(), program=("-c", code))
        _, err = process.communicate()
        loaded = {name.partition(".")[0] for name in err.split()}
        assert process.returncode == ends, err
        assert "hydra" in loaded
        assert not loaded & {"torch", "transformers", "datasets", "wandb", "numpy"}, arguments


HALF_WAY = """
class HalfWay:
    def __init__(self, share):
        self.share = share

    def __call__(self, table, beta):
        return 1 + 0 * table.pp, self.share * beta + 0 * table.pp
"""


def test_a_resolver_in_a_directory_of_the_user_is_found(command, work):
    (work / "mine" / "resolver").mkdir(parents=True)
    (work / "mine" / "resolver" / "half_way.yaml").write_text("name: half_way:HalfWay\noptions: {share: 0.5}\n")
    (work / "mine" / "half_way.py").write_text(HALF_WAY)
    assert command("--config-dir", "mine", "resolver=half_way").code == 0
    config = yaml.safe_load((only(work, "outputs/math-half_way-HalfWay-*") / "config.yaml").read_text())
    assert config["resolver"]["options"] == {"share": 0.5}
    assert command("--config-dir", "mine", "resolver=half_way", "resolver.name=half:HalfWay").code == 2


def test_a_key_that_a_users_yaml_misspells_is_named(command, work):
    (work / "mine" / "resolver").mkdir(parents=True)
    (work / "mine" / "resolver" / "typo.yaml").write_text("name: fixed\nalhpa: 0.3\n")
    ended = command("--config-dir", "mine", "resolver=typo")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: resolver.alhpa: no such key; did you mean resolver.alpha")


def test_warnings_reach_the_terminal_and_the_log(command, work):
    ended = command("learner.kl=k1")
    assert ended.code == 0
    assert ended.err.startswith("pcr-run: WARNING: learner.kl: k1 has zero expected gradient")
    logged = (only(work, "outputs/*") / "run.log").read_text()
    assert logged.count("WARNING learner.kl: k1 has zero expected gradient") == 1
