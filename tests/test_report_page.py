"""The page and the files around it: what they hold, what hostile text becomes, and what may fail without harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys

import pytest
from fake_sweep import cell, declare, measured, training, written

from pcr_run.report import build, cli, transcripts
from pcr_run.report.cells import load
from pcr_run.report.remarks import remarks

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028{{ 7*7 }}&amp;]]>"


def runs(directory):
    """Two rules with two seeds each."""
    for seed in range(2):
        for rule in ("none", "pcr"):
            rollouts = [written(step, HOSTILE if step == 1 else "\\boxed{4}") for step in range(1, 7)]
            cell(directory, rule, seed, [0.1], [0.4], metrics=training(), layers=measured(), rollouts=rollouts)
    return directory


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The whole report of a sweep, made once."""
    return build.write([runs(tmp_path_factory.mktemp("sweep"))])


@pytest.fixture
def sweep(tmp_path):
    """The same with one experiment of one figure: quicker."""
    runs(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    declare(tmp_path, "e", names, tables=[{"rows": ["resolver.name"]}], figures=[{"kind": "heatmap"}])
    return tmp_path


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_report_is_a_page_and_every_table_and_figure_in_three_forms(page):
    assert page.parts[-2:] == ("report", "report.html")
    for folder, forms in (("tables", {".md", ".csv", ".tex"}), ("figures", {".png", ".pdf", ".svg"})):
        files = list((page.parent / folder).iterdir())
        assert {file.suffix for file in files} == forms
        assert len(files) % 3 == 0
        assert all(file.stat().st_size for file in files)
    text = page.read_text()
    assert text.count("data:image/svg+xml;base64,") == len(list((page.parent / "figures").glob("*.svg")))
    assert "4 of 4 runs complete" in text


def test_nothing_on_the_page_can_be_loaded_or_run_but_its_own(page):
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for name, source in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text)


def test_hostile_text_stays_data(page):
    text = page.read_text()
    found = embedded(text)
    assert {entry["response"] for entry in found["transcripts"]} == {HOSTILE, "\\boxed{4}"}
    assert text.count("<script") == 2
    assert "onerror" not in text.replace("\\u003cimg src=x onerror=alert(2)\\u003e", "")
    assert "\u2028" not in text


def test_hostile_names_are_escaped_everywhere(tmp_path):
    nasty = "<b onclick=x>&\"'"
    one = cell(tmp_path, nasty, 0, [0.1], [0.2], task=nasty.replace("/", ""), metrics=training(), layers=measured())
    cell(tmp_path, "none", 0, [0.1], [0.2], status="failed")
    figures = [{"kind": "curves", "title": nasty}]
    declare(
        tmp_path,
        "e",
        [one],
        figures=figures,
        title=nasty,
        text=nasty,
        tables=[{"rows": ["resolver.name"], "title": nasty}],
    )
    text = build.write([tmp_path]).read_text()
    assert "<b onclick" not in text
    assert "&lt;b onclick" in text


def test_the_same_files_give_the_same_report_and_old_figures_go(sweep):
    page = build.write([sweep])
    before = {path: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    (page.parent / "figures" / "old.png").write_bytes(b"")
    build.write([sweep])
    assert {path: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()} == before


def test_no_torch_is_needed(sweep):
    code = "import sys; from pcr_run.report import cli; cli.main(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, sweep], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("report/report.html\n")


def test_a_run_gets_its_learning_curves_beside_its_result(sweep):
    (run, *_) = sorted(path for path in sweep.iterdir() if (path / "config.yaml").exists())
    build.write([run])
    assert (run / "curves.png").read_bytes() == (run / "report" / "figures" / "runs-1-curves.png").read_bytes()


def test_several_directories_and_another_place(sweep, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    declare(other, "mine", [cell(other, "pcgrad", 0, [0.1], [0.2])])
    page = build.write([sweep, other], other / "here")
    assert page == other / "here" / "report.html"
    assert "1 of 1 runs complete" in page.read_text()
    assert "4 of 4 runs complete" in page.read_text()


def test_unfinished_and_damaged_runs_make_a_report_that_says_so(tmp_path):
    cell(tmp_path, "none", 0, [0.1], [0.2], status="interrupted", metrics=training(2))
    damaged = cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=training(2))
    for name in ("result.json", "layers.jsonl", "rollouts.jsonl", "evaluations.jsonl"):
        (damaged / name).write_bytes(b'[1]\n{"step": null}\n\xff\n{"to')
    text = build.write([tmp_path]).read_text()
    assert "Runs that are interrupted and count in no table" in text
    assert "0 of 2 runs complete" in text


def test_claims_are_a_table(sweep):
    cells = sorted(path for path in sweep.iterdir() if (path / "config.yaml").exists())
    claim = {"text": "<b>PCR</b> wins", "statistic": "trained", "of": {"resolver.name": "pcr"}, "direction": "greater"}
    declare(sweep, "e", cells, claims={"wins": {**claim, "against": {"resolver.name": "none"}, "interest": 1}})
    page = build.write([sweep]).read_text()
    assert "&lt;b&gt;PCR&lt;/b&gt; wins" in page
    assert (sweep / "report" / "tables" / "e-claims.csv").read_text().startswith("claim,")


def test_transcripts_are_a_sample_over_all_runs_and_steps(tmp_path):
    for rule in ("none", "pcr"):
        cell(tmp_path, rule, 0, [0.1], [0.2], rollouts=[written(step, "x" * 20_000) for step in range(1, 101)])
    found, there = transcripts.sample(load(tmp_path), 20)
    assert (len(found), there) == (20, 200)
    assert [entry["step"] for entry in found if entry["run"] == 1] == list(range(1, 101, 10))
    assert "[... 12000 characters left out ...]" in found[0]["response"]
    assert len(found[0]["response"]) < 8100


def test_odd_transcripts_are_texts(tmp_path):
    lines = [
        written(prompt="plain", reward="much", step="x", response=None),
        written(response="\ud800", detail={"a": 1}),
    ]
    cell(tmp_path, "pcr", 0, [0.1], [0.2], rollouts=lines)
    one, other = transcripts.sample(load(tmp_path))[0]
    assert (one["prompt"], one["reward"], one["step"], one["response"]) == ("plain", None, None, "")
    assert (other["response"], other["detail"]) == ("?", "{'a': 1}")
    build.write([tmp_path])


def test_warnings_say_what_matters(tmp_path):
    bad = [{**line, "truncated": 4, "verdict/unparsed": 2, "verdict/error": 1, "nonfinite": 1.0} for line in training()]
    bad = [{**line, "zero_advantage_groups": 3, "weights_changed": 0.01} for line in bad]
    cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=bad, truncated=0.4)
    cell(tmp_path, "none", 0, [0.1], [0.2], metrics=training())
    cell(tmp_path, "fixed", 0, [0.1], [0.2], status="failed")
    found = remarks(load(tmp_path), ["gone"])
    assert found[0].startswith("Runs that are failed and count in no table: math-fixed-0- (it was | not to be")
    for text, value in (
        ("Training responses that were cut at the limit of tokens", "50%"),
        ("Training responses without a readable answer", "29%"),
        ("could not be judged (timeout, error, refused)", "14%"),
        ("Updates that were skipped because their gradient was not finite", "6"),
        ("Groups of responses without a signal (all with the same reward)", "75%"),
        ("Updates that changed few weights: rounding ate them", "1.0% changed"),
        ("Evaluated answers that end cut at the limit of tokens, math", "40%"),
    ):
        (line,) = [line for line in found if text in line]
        assert f"math-pcr-0- ({value})" in line
        assert "none" not in line
    assert "Runs that were not started: gone" in found


def test_claims_that_were_changed_and_questions_that_are_shared_are_warned_of(tmp_path):
    run = cell(tmp_path, "pcr", 0, [0.1], [0.2])
    found = json.loads((run / "result.json").read_text())
    found["overlap"] = {"math": {"same": 2, "ngram": 1, "train": 100, "test": 50}, "other": {"same": 0, "ngram": 0}}
    (run / "result.json").write_text(json.dumps(found))
    fixed = [{"sha256": "a", "at": "2026-01-01"}, {"sha256": "b", "at": "2026-02-02"}]
    declare(tmp_path, "e", [run], fixed=fixed, grids=["seed=0"], tables=[], figures=[])
    text = build.write([tmp_path]).read_text()
    assert "Claims that were changed after runs had begun, at: 2026-02-02" in text
    assert "that share 13 words with one: math-pcr-0- (3)" in text
    assert "Training questions that other holds out" not in text


def test_a_report_that_fails_is_one_warning(tmp_path, caplog, monkeypatch):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    declare(tmp_path, "e", [], figures=[{"kind": "pie"}])
    build.softly(tmp_path)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "no report: ConfigError" in record.getMessage()
    assert "pie" in record.getMessage()


def test_a_wrong_experiment_is_a_message_and_exit_code_2(tmp_path, monkeypatch, capsys):
    cell(tmp_path, "pcr", 0, [0.1], [0.2])
    declare(tmp_path, "e", [], figures=[{"kind": "pie"}])
    monkeypatch.setattr("sys.argv", ["pcr-report", str(tmp_path)])
    assert cli.main() == 2
    assert "figures[0].kind: is 'pie'; right is one of" in capsys.readouterr().err


def test_watch_outlives_an_experiment_that_is_just_being_written(tmp_path, monkeypatch, capsys):
    run = cell(tmp_path, "pcr", 0, [0.1], [0.2])
    file = declare(tmp_path, "e", [run], figures=[])
    contents = iter(["{", file.read_text(), None])

    def sleep(_: float) -> None:
        content = next(contents)
        if content is None:
            raise KeyboardInterrupt
        file.write_text(content)

    monkeypatch.setattr(cli.time, "sleep", sleep)
    monkeypatch.setattr("sys.argv", ["pcr-report", "--watch", str(tmp_path)])
    assert cli.main() == 0
    out, err = capsys.readouterr()
    assert "not readable as JSON" in err
    assert out.count("report.html") == 2


def test_watch_writes_again_when_a_run_has_written_and_ends_with_ctrl_c(tmp_path, monkeypatch, capsys):
    run = cell(tmp_path, "pcr", 0, [0.1], [0.2], metrics=training(2))
    made = []
    monkeypatch.setattr(build, "write", lambda directories, out, *_: made.append(out) or directories[0])
    sleeps = iter(range(6))

    def sleep(_: float) -> None:
        step = next(sleeps)
        if step == 2:
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(training(3)[-1]) + "\n")
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.time, "sleep", sleep)
    monkeypatch.setattr("sys.argv", ["pcr-report", "--watch", str(tmp_path)])
    assert cli.main() == 0
    assert len(made) == 2
