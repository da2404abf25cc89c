"""Rows written to local files, as the tests of what reads data sets want them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace in the user's cache of data sets."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path: Path, own_cache: None):
    """``write(rows, "a.jsonl")`` gives the path of a file with these rows."""

    def save(rows: list[dict], name: str = "rows.jsonl") -> str:
        file = tmp_path / name
        if file.suffix == ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(file)
        elif file.suffix == ".csv":
            datasets.Dataset.from_list(rows).to_csv(file)
        else:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            file.write_bytes(gzip.compress(lines.encode()) if file.suffix == ".gz" else lines.encode())
        return str(file)

    return save
