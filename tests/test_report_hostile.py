"""Runs as no test would make them: damaged, of other versions, with odd names, or read by two at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from fake_sweep import cell, declare, training
from test_report_tables import made

from pcr_run.errors import ConfigError
from pcr_run.report import build, cli, experiment, summary
from pcr_run.report.cells import load
from pcr_run.report.claims import outcomes
from pcr_run.report.measures import column, final
from pcr_run.report.remarks import remarks
from pcr_run.report.tables import tables
from pcr_run.report.transcripts import sample

NAN, INFINITY = float("nan"), float("inf")


def after(**change):
    def do(result):
        result["scores"]["math"]["after"] |= change

    return do


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.update(scores=None),
        lambda result: result.update(scores=[1]),
        lambda result: result["scores"].update(other=None),
        lambda result: result["scores"]["math"].pop("before"),
        lambda result: result["scores"]["math"].pop("after"),
        lambda result: result["scores"]["other"].pop("difference"),
        lambda result: result.update(perplexity=None),
        lambda result: result.update(perplexity={}),
        lambda result: result.update(seconds=None),
        lambda result: result.update(overlap={"math": None, "other": {"same": None, "ngram": 3}}),
        after(**{"pass@1": None}),
        after(**{"pass@1": NAN}),
        after(**{"pass@1": INFINITY}),
        after(**{"pass@k": {"1": {"value": 0.1}, "8": {"value": None}}, "maj@n": {"value": None}}),
        after(per_question=None),
        after(per_question=[]),
        after(per_question=[1, 0, 1]),
        after(truncated=None),
    ],
)
def test_a_damaged_result_leaves_out_what_it_does_not_have(tmp_path, change):
    directory = cell(tmp_path, "none", 0, [0.1, 0.2], [0.3, 0.4], metrics=training())
    cell(tmp_path, "pcr", 0, [0.1, 0.2], [0.5, 0.4], metrics=training())
    result = json.loads((directory / "result.json").read_text())
    change(result)
    (directory / "result.json").write_text(json.dumps(result))
    assert "| pcr " in summary.write(tmp_path)
    (one,), _ = build.collect([tmp_path])
    scores, _ = tables(one, one.tables[0], "here")
    assert {row["resolver"]: row.get("math") for row in scores.rows}["pcr"].value == pytest.approx(45)
    assert not any(text.startswith("Runs that are") for text in remarks(one.cells))


def test_scores_that_are_not_finite_are_none(tmp_path):
    directory = cell(tmp_path, "none", 0, [0.1], [0.3])
    (directory / "result.json").write_text((directory / "result.json").read_text().replace("0.3", "NaN"))
    (one,) = load(tmp_path)
    assert list(one.scores) == ["other"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"task": {"name": "math"}, "resolver": {"name": "pcr"}}, "seed is None"),
        ({"seed": "one", "task": {"name": "math"}, "resolver": {"name": "pcr"}}, "seed is 'one'"),
        ({"seed": 1, "task": "math", "resolver": {"name": "pcr"}}, "task.name is None"),
        ({"seed": 1, "task": {"name": "math"}}, "resolver.name is None"),
        (None, "seed is None"),
    ],
)
def test_another_programs_configuration_is_named(tmp_path, config, says):
    cell(tmp_path, "none", 0, [0.1], [0.3])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("" if config is None else yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=f"other/config.yaml: {says}, so this is no run of pcr-run; move other away"):
        load(tmp_path)


def test_numbers_that_no_float_holds_are_none(tmp_path):
    huge = "1" + "0" * 400
    line = {"step": 1, "prompt": None, "response": "\ud800\0</script>", "reward": 0.5}
    directory = cell(tmp_path, "none", 0, [0.1], [0.3], rollouts=[line])
    (directory / "metrics.jsonl").write_text(f'{{"step": 1, "reward": {huge}, "kl": Infinity, "grad_norm": NaN}}\n')
    text = (directory / "rollouts.jsonl").read_text()
    (directory / "rollouts.jsonl").write_text(text.replace("0.5", huge))
    (one,) = load(tmp_path)
    assert [final(one, name) for name in ("reward", "kl", "grad_norm")] == pytest.approx([NAN] * 3, nan_ok=True)
    assert column(one, "step")[0] == 1
    assert [entry["reward"] for entry in sample([one])[0]] == [None]


def test_sections_of_two_directories_with_one_name_keep_their_files(tmp_path):
    claim = {"text": "t", "statistic": "trained", "of": {"resolver.name": "pcr"}, "direction": "greater", "interest": 1}
    for name, score in (("a", 0.2), ("b", 0.4)):
        sweep = tmp_path / name
        runs = [cell(sweep, "pcr", seed, [0.1], [score]) for seed in (0, 1)]
        tables_ = [{"rows": ["resolver.name"]}]
        declare(sweep, "fig2", runs, tables=tables_, claims={"c": {**claim, "value": 10.0}})
    experiments, _ = build.collect([tmp_path / "a", tmp_path / "b"])
    assert [each.name for each in experiments] == ["fig2", "fig2.2"]
    assert [len(grid.rows) for grid in outcomes(experiments).values()] == [1, 1]
    written = build.write([tmp_path / "a", tmp_path / "b"]).parent / "tables"
    assert "20" in (written / "fig2-1.csv").read_text()
    assert "40" in (written / "fig2.2-1.csv").read_text()


def test_a_run_beside_a_sweep_keeps_its_own_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "rendered", lambda _: dict.fromkeys(("png", "pdf", "svg"), b""))
    run = cell(tmp_path / "alone", "none", 0, [0.1], [0.3])
    declare(tmp_path, "e", [cell(tmp_path, "pcr", 0, [0.1], [0.3])])
    build.write([run, tmp_path])
    assert not (run / "curves.png").exists()


def test_files_of_another_process_that_writes_the_same_report_are_left_alone(tmp_path):
    (tmp_path / "tables").mkdir()
    theirs, old = tmp_path / "tables" / "e-1.md.7.tmp", tmp_path / "tables" / "old.md"
    theirs.write_text("half")
    old.write_text("old")
    build._replace(tmp_path, {"tables/e-1.md": b"whole"})
    assert theirs.read_text() == "half"
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["e-1.md", "e-1.md.7.tmp"]


def test_with_out_nothing_is_written_where_the_runs_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "rendered", lambda _: dict.fromkeys(("png", "pdf", "svg"), b""))
    run = cell(tmp_path / "sweep", "none", 0, [0.1], [0.3])
    before = sorted(path.name for path in (*run.iterdir(), *run.parent.iterdir()))
    for place in (run, run.parent):
        monkeypatch.setattr(sys, "argv", ["pcr-report", str(place), "--out", str(tmp_path / "out")])
        assert cli.main() == 0
    assert sorted(path.name for path in (*run.iterdir(), *run.parent.iterdir())) == before
    assert "Pass@1 in %" in capsys.readouterr().out


def test_a_terminal_without_unicode_and_a_name_that_is_no_text(tmp_path):
    sweep = tmp_path / os.fsdecode(b"caf\xe9 <b> & %")
    directory = cell(sweep, "none", 0, [0.1, 0.2], [0.3, 0.4])
    declare(sweep, "e", [directory], tables=[{"rows": ["resolver.name"]}])
    code = "import sys; from pcr_run.report import cli; sys.exit(cli.main())"
    options = {"env": {**os.environ, "PYTHONIOENCODING": "ascii"}, "capture_output": True}
    done = subprocess.run([sys.executable, "-c", code, sweep], **options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf? <b>" in done.stdout
    assert "caf? &lt;b&gt; &amp; %" in (sweep / "report" / "report.html").read_text()


def test_questions_are_paired_only_where_they_are_the_same(tmp_path):
    for rule, items in (("none", "a"), ("pcr", "b")):
        for seed in (0, 1):
            directory = cell(tmp_path, rule, seed, [0.1, 0.1], [0.2, 0.4 + seed / 10])
            result = json.loads((directory / "result.json").read_text())
            result["scores"]["math"]["after"]["items"] = items
            (directory / "result.json").write_text(json.dumps(result))
    _, details = made(tmp_path)
    found = {row["benchmark"]: row.get("bootstrap") for row in details.rows if row["resolver"] == "pcr"}
    assert found["math"] is None
    assert found["other"] is not None


CLAIM = {"text": "t", "statistic": "trained", "direction": "greater", "interest": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"statistic": None}, "claims.c: statistic: is missing"),
        ({"direction": "up"}, "claims.c.direction: is 'up'; right is greater, less, equal"),
        ({"interest": "1"}, "claims.c: interest: is '1'; right is a number"),
        ({"interst": 3}, "claims.c: interst: no such field here; right is one of text"),
        ({"of": ["pcr"]}, r"claims.c: of: is \['pcr'\]; right is a mapping"),
    ],
)
def test_a_wrong_claim_in_a_file_is_named(tmp_path, change, says):
    file = declare(tmp_path, "e", ["a"], claims={"c": {**CLAIM, **change}})
    with pytest.raises(ConfigError, match=says):
        experiment.read(file)
