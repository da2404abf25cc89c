"""Every data set that has a configuration, from a local file with the columns and types of the published one."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from published import PUBLISHED, Published
from pyarrow import csv, parquet

from pcr_run.errors import ConfigError
from pcr_run.task import hub, text

pytest_plugins = ["local_rows"]
pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).parents[1]
(BLOCK,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE | re.DOTALL)
ALIASES = yaml.safe_load(BLOCK)
EACH = pytest.mark.parametrize("each", PUBLISHED, ids=lambda each: f"{each.where}-{each.side}".strip("-"))


def options(each: Published) -> dict[str, Any]:
    """The options as the project ships them."""
    if each.where in ALIASES:
        return copy.deepcopy(ALIASES[each.where])
    found = yaml.safe_load((ROOT / "conf" / f"{each.where}.yaml").read_text())
    return found.get("data", found)[each.side]


def write(directory: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    path = directory / f"rows.{kind}"
    table = pyarrow.Table.from_pylist(rows)
    match kind:
        case "parquet":
            parquet.write_table(table, path)
        case "csv":
            csv.write_csv(table, path)
        case "json":
            path.write_text(json.dumps(rows))
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(each: Published, path: str) -> list:
    return hub.items("task.data.train", {**options(each), "path": path})


def refused(each: Published, path: str) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        load(each, path)
    assert path in str(error.value)
    assert error.value.key.startswith("task.data.train")
    assert "\n" not in str(error.value)
    return error.value


def some(each: Published) -> list[dict[str, Any]]:
    """Three rows that every filter lets through."""
    return [each.row(i) for i in (50, 60, 62)]


@EACH
def test_a_file_with_the_published_columns_loads_with_only_the_path_replaced(each: Published, tmp_path: Path) -> None:
    found = load(each, write(tmp_path, each.kind, [each.row(i) for i in range(each.count)]))
    assert len(found) == each.usable
    assert len({item.id for item in found}) == each.usable
    if "sample" not in options(each):
        assert (found[0].prompt[-1]["content"], found[0].reference) == each.first


@EACH
def test_a_missing_column_is_named_with_those_that_are_there(each: Published, tmp_path: Path) -> None:
    for column in each.needed:
        rows = [{name: cell for name, cell in row.items() if name != column} for row in some(each)]
        told = str(refused(each, write(tmp_path, each.kind, rows)))
        missed = "prompt" if column == "text" else column  # MBPP without it has the other layout
        assert f"no column {missed!r}; there are {', '.join(rows[0])}" in told


@EACH
def test_an_empty_answer_is_named_by_its_row(each: Published, tmp_path: Path) -> None:
    rows = some(each)
    rows[1] |= {each.answer: "" if isinstance(rows[1][each.answer], str) else None}
    told = refused(each, path := write(tmp_path, each.kind, rows))
    assert f"row 1 of {path}: " in str(told)
    assert re.search(f"{each.answer}.*empty", str(told))
    assert "mend it, or leave such rows out" in str(told)


COUNTED = [each for each in PUBLISHED if "rows" in options(each)]


@pytest.mark.parametrize("each", COUNTED, ids=lambda each: f"{each.where}-{each.side}".strip("-"))
def test_another_number_of_rows_says_what_was_found_and_what_is_right(each: Published, tmp_path: Path) -> None:
    told = refused(each, write(tmp_path, each.kind, some(each)))
    assert told.key == "task.data.train.rows"
    assert f"has 3 usable rows, {each.usable} are right" in str(told)
    assert "set rows to 3 or null" in str(told)


def test_benchmarks_and_the_papers_training_set_are_counted() -> None:
    known = {"aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "minerva": 272, "humaneval0": 164, "gsm8k": 1_319}
    counts = {each.where: options(each)["rows"] for each in COUNTED}
    assert {name: counts[f"task/{name}"] for name in known} == known
    assert 919 in [options(each)["rows"] for each in COUNTED if each.where == "task/data/math_paper"]


def test_no_set_is_left_out() -> None:
    assert set(ALIASES) <= {each.where for each in PUBLISHED}
    for path in (ROOT / "conf" / "task").rglob("*.yaml"):
        found = yaml.safe_load(path.read_text())
        data = found.get("data", found)
        if data.get("source") == "hub":
            where = str(path.relative_to(ROOT / "conf").with_suffix(""))
            sides = {each.side for each in PUBLISHED if each.where == where}
            assert sides == {side for side in ("train", "test") if data[side]}, where


def test_keep_counts_what_it_lets_through_and_names_what_it_cannot_compare(tmp_path: Path) -> None:
    each = PUBLISHED[0]
    rows = [each.row(i) for i in range(918)] + [each.row(920)]
    told = str(refused(each, write(tmp_path, "csv", rows)))
    assert "has 918 usable rows, 919 are right (of 919 rows, 918 of which pass keep)" in told
    rows = [row | {"Year": f"in {row['Year']}"} for row in some(each)]
    told = refused(each, path := write(tmp_path, "jsonl", rows))
    assert told.key == "task.data.train.keep.Year"
    assert f"row 0 of {path}: 'in 1985' cannot be held against {{'max': 2023}}" in str(told)


ONE = ["", " = One = \n", "", " First . \n", " = = Part = = \n", "", " More . \n"]
TWO = ["", " = Two = \n", "", " Last . \n"]
PAGES = [" \n = One = \n \n First . \n = = Part = = \n \n More . \n", " = Two = \n \n Last . \n"]


def test_wikitext_by_lines_and_by_articles_gives_the_same_documents(tmp_path: Path) -> None:
    conf = ROOT / "conf" / "evaluation" / "text"
    lines, pages = (yaml.safe_load((conf / f"{name}.yaml").read_text()) for name in ("wikitext", "paper"))
    lines["path"] = write(tmp_path, "parquet", [{"text": line} for line in ONE + TWO])
    assert [document.strip() for document in text.load(lines)] == [page.strip() for page in PAGES]
    pages["path"] = write(tmp_path, "jsonl", [{"page": page} for page in 31 * PAGES])
    assert text.load(pages) == 31 * PAGES
    pages["path"] = write(tmp_path, "json", [{"page": page} for page in PAGES])
    with pytest.raises(ConfigError, match=r"evaluation\.text\.rows: .*rows\.json has 2 documents, 62 are right"):
        text.load(pages)
    for wrong, message in (
        ({"heading": "("}, "no regular expression"),
        ({"column": "id"}, "no column 'id'; there are"),
    ):
        with pytest.raises(ConfigError, match=f"evaluation.text.{next(iter(wrong))}: .*{message}"):
            text.load(lines | wrong)
