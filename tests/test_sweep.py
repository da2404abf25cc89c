"""Sweeps: every cell a process, checked before the first starts, continued by the same command."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import yaml

pytest_plugins = ["command_line"]


def cells(work: Path) -> dict[str, dict]:
    """Resolver -> result of each cell."""
    found = (json.loads(path.read_text()) for path in work.glob("outputs/*/*/result.json"))
    return {result["resolver"]: result for result in found}


def starts(work: Path, resolver: str) -> list[str]:
    """CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS and process of each start of a cell."""
    (file,) = work.glob(f"outputs/*/math-{resolver}-seed0*/starts")
    return file.read_text().splitlines()


def test_every_combination_runs_in_a_process_of_its_own_and_ends_in_a_table(command, work):
    ended = command("-m", "resolver=pcr,none", "task=math,code", "steps=3")
    assert ended.code == 0
    runs = list(work.glob("outputs/sweep-resolver-task-*/*/starts"))
    assert len(runs) == 4
    processes = {path.read_text().split()[2] for path in runs}
    assert len(processes) == 4
    assert str(os.getpid()) not in processes
    (table,) = work.glob("outputs/*/summary.csv")
    rows = list(csv.DictReader(table.open()))
    assert [(row["task"], row["resolver"]) for row in rows] == [
        ("code", "none"),
        ("code", "pcr"),
        ("math", "none"),
        ("math", "pcr"),
    ]
    assert (table.with_suffix(".md")).read_text() in ended.out


def test_complete_cells_are_skipped_and_new_ones_are_added_to_the_same_directory(command, work):
    command("-m", "hydra.sweep.dir=here", "resolver=pcr,none")
    before = {path: path.stat().st_mtime_ns for path in work.glob("here/*/result.json")}
    ended = command("-m", "hydra.sweep.dir=here", "resolver=pcr,none,pcgrad")
    assert ended.code == 0
    assert "sweep of 3 cells, 2 already complete" in ended.out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ended.out.count(": started") == 1


def test_a_bad_cell_stops_the_sweep_before_any_starts(command, work):
    ended = command("-m", "resolver=none,pcr", "rollout.prompts=16,1", "learner.microbatch=8", "measure.unit=query")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: measure.unit: query needs at least 2 prompts")
    assert "resolver=pcr rollout.prompts=1" in ended.err
    assert "Traceback" not in ended.err
    assert not list(work.glob("outputs/*/*/"))


def test_a_cell_whose_directory_belongs_to_another_configuration_stops_the_sweep(command, work):
    command("-m", "hydra.sweep.dir=here", "hydra.sweep.subdir='cell${seed}'", "seed=0,1", "steps=5")
    ended = command("-m", "hydra.sweep.dir=here", "hydra.sweep.subdir='cell${seed}'", "seed=0,1", "steps=6")
    assert ended.code == 2
    assert "steps: 5 there, 6 here" in ended.err
    assert len((work / "here" / "cell0" / "starts").read_text().splitlines()) == 1


def test_failed_cells_are_reported_and_the_others_finish(command, work):
    fakes = {"pcr": "failed", "fixed": "bug", "pcgrad": "killed"}
    ended = command("-m", "resolver=pcr,fixed,pcgrad,none", **fakes)
    assert ended.code == 1
    found = cells(work)
    assert {name: result["status"] for name, result in found.items()} == {
        **dict.fromkeys(fakes, "failed"),
        "none": "complete",
    }
    assert found["pcr"]["reason"] == "3 updates in a row were not finite"
    assert found["pcgrad"]["reason"] == "killed by SIGKILL"
    for reason in ("not finite", "ZeroDivisionError: by nothing", "killed by SIGKILL"):
        assert ended.out.count(reason) >= 2  # when it happened, and in the table
    assert "Traceback" not in ended.out + ended.err
    again = command("-m", "resolver=pcr,fixed,pcgrad,none")
    assert again.code == 0
    assert "1 already complete" in again.out
    assert {result["status"] for result in cells(work).values()} == {"complete"}


def test_cells_that_only_found_bad_data_end_with_2(command):
    assert command("-m", "resolver=pcr,none", pcr="bad data", none="bad data").code == 2
    assert command("-m", "resolver=pcr,pcgrad", pcr="bad data").code == 1


@pytest.mark.parametrize(("number", "code", "parallel"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 2)])
def test_an_interrupted_sweep_goes_on_with_the_same_command(shell, work, wait_for, number, code, parallel):
    arguments = ("-m", "resolver=none,pcr,pcgrad", f"hydra.launcher.parallel={parallel}")
    process = shell(*arguments, pcr="slow", pcgrad="slow")
    wait_for(lambda: len(list(work.glob("outputs/*/math-pc*/metrics.jsonl"))) == parallel)
    wait_for(lambda: cells(work).get("none", {}).get("status") == "complete")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert [result["status"] for result in cells(work).values()].count("interrupted") == parallel
    assert list(work.glob("outputs/*/summary.md"))
    pids = [int(line.split()[2]) for line in starts(work, "pcr")]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    again = shell(*arguments)
    again.communicate(timeout=30)
    assert again.returncode == 0
    assert {result["status"] for result in cells(work).values()} == {"complete"}
    assert len(starts(work, "none")) == 1


def test_parallel_cells_overlap_and_share_the_cores(command, work, monkeypatch, wait_for):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def let_go() -> None:
        wait_for(lambda: len(list(work.glob("outputs/*/*/starts"))) == 2)
        (sweep,) = work.glob("outputs/*")
        (sweep / "go on").touch()

    helper = threading.Thread(target=let_go)
    helper.start()
    ended = command("-m", "resolver=pcr,none", "hydra.launcher.parallel=2", pcr="waiting", none="waiting")
    helper.join()
    assert ended.code == 0
    assert [starts(work, name)[0].split()[1] for name in ("pcr", "none")] == ["4", "4"]


def test_gpus_are_dealt_out_one_to_each_running_cell(command, work):
    ended = command("-m", "resolver=pcr,none,pcgrad", "hydra.launcher.gpus=[3,GPU-5]")
    assert ended.code == 0
    used = [starts(work, name)[0].split()[0] for name in ("pcr", "none", "pcgrad")]
    assert set(used) == {"3", "GPU-5"}
    assert used[:2] == ["3", "GPU-5"]


def test_gpus_are_dealt_out_in_sets_to_cells_of_several_processes(command, work):
    ended = command("-m", "resolver=pcr,none", "launch.nproc=2", "hydra.launcher.gpus=[0,1,2,3,4]")
    assert ended.code == 0, ended.err
    for name, gpus in (("pcr", "0,1"), ("none", "2,3")):
        assert [line.split()[0] for line in starts(work, name)] == [gpus, gpus]
    ended = command("-m", "resolver=pcr,none", "seed=7", "launch.nproc=3", "hydra.launcher.gpus=[0,1]")
    assert ended.code == 2
    assert "hydra.launcher.gpus: 2 are not enough for launch.nproc=3" in ended.err


def test_a_cell_whose_rank_is_killed_has_a_result_that_says_so(command, work):
    ended = command("resolver=pcr", "launch.nproc=2", "hydra.run.dir=here", pcr="killed")
    assert ended.code == 1
    assert ended.err.count("error:") == 1
    assert "rank 0 was killed by SIGKILL" in ended.err
    assert json.loads((work / "here" / "result.json").read_text())["status"] == "failed"


def test_an_error_of_a_rank_is_that_of_the_run(command, work):
    ended = command("resolver=pcr", "launch.nproc=2", "hydra.run.dir=here", pcr="bad data")
    assert ended.code == 2
    assert ended.err == "pcr-run: error: task.data.path: empty; right is a file with rows\n"


def test_directories_are_the_same_for_the_same_cell_however_the_sweep_is_written(command, work):
    command("-m", "resolver=pcr", "seed=1", "steps=3", "hydra.sweep.dir=a")
    command("-m", "steps=3", "seed=0,1", "resolver=pcr", "hydra.sweep.dir=b", "checkpoint.every=7")
    names = {path.parent.name for path in work.glob("a/*/config.yaml")}
    assert len(names) == 1
    assert names < {path.parent.name for path in work.glob("b/*/config.yaml")}


def test_directories_with_spaces_quotes_and_commas_reach_the_cells(command, work):
    assert command("-m", r"hydra.sweep.dir='it\'s a, b=c'", "resolver=pcr,none").code == 0
    assert len(list((work / "it's a, b=c").glob("*/result.json"))) == 2


def test_dry_run_shows_every_cell_and_starts_none(command, work):
    ended = command("-m", "dry_run=true", "resolver=pcr,none", "seed=0,1,2")
    assert ended.code == 0
    assert "16 prompts x 8 responses = 128" in ended.out
    for name in ("pcr", "none"):
        for seed in range(3):
            assert f"math-{name}-seed{seed}-" in ended.out
    assert not list(work.glob("outputs/*/*/"))


def test_cells_are_grouped_in_wandb_by_their_sweep(command, work):
    command("-m", "resolver=pcr,none", "hydra.sweep.dir=here/mine")
    groups = {
        yaml.safe_load(path.read_text())["tracker"]["wandb"]["group"] for path in work.glob("here/mine/*/config.yaml")
    }
    assert groups == {"mine"}


def test_a_primary_configuration_of_the_user_can_be_a_sweep(command, work):
    (work / "mine").mkdir()
    (work / "mine" / "table.yaml").write_text(
        "defaults: [config, _self_]\nsteps: 3\nhydra: {mode: MULTIRUN, sweeper: {params: {resolver: 'half,none'}}}\n"
    )
    (work / "mine" / "resolver").mkdir()
    (work / "mine" / "resolver" / "half.yaml").write_text("name: half:Half\n")
    (work / "mine" / "half.py").write_text("class Half:\n    def __call__(self, table, beta): ...\n")
    ended = command("--config-dir", "mine", "-cn", "table")
    assert ended.code == 0
    assert {result["resolver"] for result in cells(work).values()} == {"half:Half", "none"}


def test_hydras_own_launcher_works_and_pcr_report_makes_its_summary(command, work, monkeypatch):
    assert command("-m", "hydra/launcher=basic", "resolver=pcr,none", "hydra.sweep.dir=here").code == 0
    from pcr_run.report import cli

    monkeypatch.setattr("sys.argv", ["pcr-report", "here"])
    assert cli.main() == 0
    assert (work / "here" / "summary.csv").is_file()


def test_a_failure_under_hydras_own_launcher_is_one_message(command):
    ended = command("-m", "hydra/launcher=basic", "resolver=none,pcr", pcr="failed")
    assert ended.code == 1
    assert "pcr-run: error: 3 updates in a row were not finite" in ended.err
    assert "Traceback" not in ended.err


def test_options_of_a_resolver_are_checked_before_any_cell_starts(command, work):
    ended = command("-m", "resolver=none,torchjd", "resolver.weighting=upgrade")
    assert ended.code == 2
    assert ended.err.startswith("pcr-run: error: resolver.weighting: ")
    assert not list(work.glob("outputs/*/*/"))


def test_an_unwritable_sweep_directory_is_named(command):
    ended = command("-m", "hydra.sweep.dir=/proc/sweep", "seed=0,1")
    assert ended.code == 2
    assert "hydra.sweep.dir" in ended.err
    assert "/proc/sweep" in ended.err
