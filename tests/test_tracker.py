"""Records on disk, the display, wandb and the table at the end."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import random
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pcr_run.errors import ConfigError, RunError
from pcr_run.records import jsonl as records
from pcr_run.records.jsonl import Records
from pcr_run.records.number import number
from pcr_run.schema import Config, WandbConfig
from pcr_run.tracker import Trackers, opened, progress, summary
from pcr_run.tracker.wandb_tracker import WandbTracker


def config(**wandb: str) -> Config:
    cfg = Config(scale="embedded")
    cfg.task.name, cfg.task.verifier = "math", "math"
    cfg.rollout.name, cfg.reward.name, cfg.resolver.name = "hf", "verifier", "pcr"
    cfg.tracker.wandb = WandbConfig(**{"mode": "disabled", **wandb})
    return cfg


def test_records_come_back_as_they_were_and_are_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with Records(path) as file:
            file.write({"step": step, "reward": 0.1 + 0.2, "text": 'ü "\n'})
    assert records.read(path) == [{"step": step, "reward": 0.1 + 0.2, "text": 'ü "\n'} for step in (1, 2)]
    assert path.read_text().count("\n") == 2


def test_each_record_is_on_disk_when_write_returns(tmp_path):
    file = Records(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    assert records.read(tmp_path / "metrics.jsonl") == [{"step": 1}]
    file.close()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with Records(tmp_path / "m.jsonl") as file:
        file.write({"step": 1, "a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.0, 2)})
    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "a": None,
        "b": [None, {"c": None}],
        "d": [1.0, 2],
    }


def test_truncate_cuts_back_to_a_step(tmp_path):
    path = tmp_path / "layers.jsonl"
    with Records(path) as file:
        for step in (1, 1, 2, 2, 3):
            file.write({"step": step})
    kept = path.read_bytes()
    records.truncate(path, 3)
    assert path.read_bytes() == kept
    records.truncate(path, 2)
    assert [line["step"] for line in records.read(path)] == [1, 1, 2, 2]
    records.truncate(path, 0)
    assert path.read_bytes() == b""
    records.truncate(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    "torn", ['{"step": 2, "rew', '{"step": 2}', "\x00\x00\x00\n", '{"step": 2, "rew\n{"step": 3}\n']
)
def test_truncate_drops_what_a_killed_run_left_half_written(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn)
    records.truncate(path, 9)
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_clear_error():
    with Records(Path("/dev/full")) as file, pytest.raises(RunError, match="/dev/full: no space left"):
        file.write({"step": 1})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_line_that_fits_only_in_part_is_a_full_disk(tmp_path, monkeypatch, number):
    real = os.write
    file = Records(tmp_path / "m.jsonl")
    monkeypatch.setattr(os, "write", lambda where, line: real(where, line[:4]))
    with pytest.raises(RunError, match="no space left"):
        file.write({"step": 1})

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(RunError, match="no space left"):
        file.write({"step": 1})
    monkeypatch.undo()
    file.close()
    assert records.read(tmp_path / "m.jsonl") == []


def test_other_errors_of_the_disk_are_not_called_full(tmp_path, monkeypatch):
    file = Records(tmp_path / "m.jsonl")

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="broken"):
        file.write({"step": 1})
    monkeypatch.undo()
    file.close()


METRICS = {
    "reward": 0.5,
    "kl": 0.0123,
    "conflict_rate": 0.75,
    "alpha": 0.41,
    "perf/tokens_per_second": 1234.0,
    "eval/math/pass@1": 0.3,
}


def test_lines_show_what_matters_and_keep_what_is_not_measured_each_step(monkeypatch):
    out = io.StringIO()
    lines = progress.Lines("math", 100, console=Console(file=out, width=300))
    now = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines.log(1, METRICS)
    lines.log(2, {"reward": 0.625, "kl": None})
    lines.log(3, {})
    first, second, third = out.getvalue().splitlines()
    fields = "KL 0.0123  conflicts 75%  alpha 0.41  tokens/s 1,234"
    assert first == f"step 1/100  reward 0.500  Pass@1 30.0%  {fields}"
    assert second == f"step 2/100  reward 0.625  Pass@1 30.0%  {fields}  left 16:20"
    assert third.endswith("left 16:10")


def test_time_left_does_not_count_what_lies_between_the_steps(monkeypatch):
    out = io.StringIO()
    lines = progress.Lines("math", 10, console=Console(file=out, width=300))
    now = iter([0.0, 1.0, 1000.0, 1001.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines.log(1, {})
    lines.log(2, {})
    lines.status("evaluating")
    lines.log(3, {})
    lines.log(4, {})
    assert out.getvalue().splitlines()[-1].endswith("left 0:06")


def test_the_live_display_shows_the_same_on_a_terminal():
    out = io.StringIO()
    with progress.Bar("math", 100, console=Console(file=out, width=120, force_terminal=True)) as bar:
        bar.status("evaluating")
        bar.live.refresh()
        bar.log(7, METRICS)
    shown = out.getvalue()
    for part in ("evaluating", "training", "7/100", "reward 0.500", "Pass@1 30.0%", "alpha 0.41"):
        assert part in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_the_live_display_has_a_small_curve_of_the_reward_and_lines_have_none():
    out = io.StringIO()
    with progress.Bar("math", 100, console=Console(file=out, width=120, force_terminal=True)) as bar:
        for step, reward in enumerate([0.0, None, 0.5, 1.0], 1):
            bar.log(step, {"reward": reward})
        bar.live.refresh()
    assert "reward ▁▅█ 0.00 to 1.00" in out.getvalue()
    out = io.StringIO()
    lines = progress.Lines("math", 100, console=Console(file=out, width=120))
    for step in (1, 2):
        lines.log(step, {"reward": 0.5})
    assert not set(progress.BLOCKS) & set(out.getvalue())


def test_a_curve_of_many_values_is_of_their_means():
    curve = progress.sparkline([float(i % 2) for i in range(400)] + [1.0] * 400, width=8)
    assert curve == "reward ▁▁▁▁████ 0.50 to 1.00"
    assert len(progress.sparkline([0.1] * 1000).split()[1]) == 40
    assert progress.sparkline([0.3]) == ""


def test_auto_is_live_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    assert type(progress.make("auto", "math", 1)) is progress.Bar
    assert type(progress.make("lines", "math", 1)) is progress.Lines
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: False))
    assert type(progress.make("auto", "math", 1)) is progress.Lines
    assert type(progress.make("live", "math", 1)) is progress.Bar


def test_trackers_are_told_everything_in_order():
    heard: list[tuple] = []

    class Ear:
        def log(self, step, metrics):
            heard.append((step, metrics))

        def status(self, text):
            heard.append((text,))

    trackers = Trackers([Ear(), Ear()])
    trackers.status("evaluating")
    trackers.log(1, {"reward": 1.0})
    assert heard == [("evaluating",)] * 2 + [(1, {"reward": 1.0})] * 2


def test_disabled_does_not_import_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    monkeypatch.delitem(sys.modules, "pcr_run.tracker.wandb_tracker", raising=False)
    with opened(config(mode="disabled"), tmp_path) as trackers:
        trackers.log(1, {"reward": 1.0})
    assert not (tmp_path / "wandb").exists()


def test_offline_keeps_one_run_per_directory_and_finishes_it_when_the_run_fails(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    state = random.getstate()
    seen, told = [], []

    def fail() -> None:
        with opened(config(mode="offline", group="a sweep"), tmp_path) as trackers:
            seen.append(wandb.run)
            monkeypatch.setattr(wandb.run, "log", lambda metrics, step: told.append((step, metrics)))
            trackers.log(1, {"reward": 0.25, "alpha": None})
            raise RunError("stop")

    with pytest.raises(RunError):
        fail()
    assert wandb.run is None
    (first,) = seen
    assert (first.group, first.name, first.project) == ("a sweep", tmp_path.name, "pcr-run")
    assert first.config["learner"]["beta"] == 0.04
    assert told == [(1, {"reward": 0.25})]
    with opened(config(mode="offline"), tmp_path):
        assert wandb.run is not None
        assert wandb.run.id == first.id
    assert random.getstate() == state  # sampling must not depend on the tracker
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_wandb_that_refuses_is_a_bad_configuration(tmp_path, monkeypatch):
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.errors.AuthenticationError("the key is not valid")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"tracker\.wandb\.mode: online: the key is not valid; offline"):
        WandbTracker(config(mode="online"), tmp_path)


RESULT = {
    "task": "math",
    "resolver": "pcr",
    "seed": 3,
    "scores": {
        "code": {"before": {"pass@1": 0.5}, "after": {"pass@1": 0.45}, "difference": -0.05, "stderr": 0.01},
        "math": {
            "before": {"pass@1": 0.4},
            "after": {"pass@1": 0.625, "questions": 64, "n": 4, "temperature": 1.0},
            "difference": 0.225,
            "stderr": 0.0312,
        },
    },
    "perplexity": {"before": 2.5, "after": 2.75},
    "seconds": {"rollout": 12.34, "learner": 5.0},
}


def test_the_table_at_the_end_says_before_after_difference_retention_time_and_place(tmp_path):
    out = io.StringIO()
    summary.show(RESULT, tmp_path, Console(file=out, width=100))
    shown = out.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert rows == [
        ["math Pass@1", "40.0%", "62.5%", "+22.5 ± 3.1"],
        ["code Pass@1 (not trained)", "50.0%", "45.0%", "-5.0 ± 1.0"],
        ["perplexity", "2.500", "2.750", "+0.250"],
    ]
    assert "64 questions x 4 samples at temperature 1" in shown
    assert "rollout 12.3  learner 5.0" in shown
    assert f"run: {tmp_path}" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((2.5, "2.500"), (6.8e19, "6.80e+19"), (1e6, "1.00e+06"), (1e-7, "1.00e-07"), (0.0, "0.000")),
        *((math.inf, "inf"), (math.nan, "nan"), (None, "not finite"), (-3e9, "-3.00e+09"), (999_999.5, "999999.500")),
    ],
)
def test_numbers_that_do_not_fit_are_in_powers_of_ten_and_infinities_are_said(tmp_path, value, shown):
    out = io.StringIO()
    summary.show({**RESULT, "perplexity": {"before": 2.5, "after": value}}, tmp_path, Console(file=out, width=100))
    (row,) = [line for line in out.getvalue().splitlines() if "perplexity" in line]
    assert row.split("│")[3].strip() == shown
    assert number(value) == shown


def test_the_end_of_a_run_says_what_a_reader_of_the_scores_has_to_know(tmp_path):
    scores = {"math": {**RESULT["scores"]["math"]}}
    remarks = {"truncated": 0.25, "unclosed_thoughts": 0.5, "ungradable": {f"row/{i}": "no value" for i in range(30)}}
    scores["math"]["after"] = {**scores["math"]["after"], **remarks}
    out = io.StringIO()
    summary.show({**RESULT, "scores": scores}, tmp_path, Console(file=out, width=100))
    assert "math: 25.0% of the answers were cut at the limit of tokens" in out.getvalue()
    assert "math: 50.0% of the answers never ended their thought" in out.getvalue()
    assert "math: 30 questions cannot be judged: row/0, row/1" in out.getvalue()
    assert "row/19 and 10 more" in out.getvalue()


def test_a_run_without_evaluation_has_a_summary_too(tmp_path):
    out = io.StringIO()
    summary.show({"task": "math", "resolver": "pcr", "seed": 0, "scores": {}}, tmp_path, Console(file=out, width=100))
    assert f"run: {tmp_path}" in out.getvalue()
