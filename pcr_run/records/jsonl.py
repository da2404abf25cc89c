"""Append-only JSONL files: what a run knows about itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcr_run.errors import disk_full, is_disk_full


class Records:
    """One JSON object a line, each written with a single system call: a killed run leaves at most one torn line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; numbers that are not finite become null. Raises ``RunError`` when the disk is full."""
        line = (json.dumps(finite(record), allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._file, line)
        except OSError as error:
            if not is_disk_full(error):
                raise
            written = 0
        if written < len(line):
            raise disk_full(self.path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file, in order; none where there is no file."""
    return [record for record, _ in _lines(path)]


def truncate(path: Path, step: int) -> None:
    """Drop what was recorded after ``step``, and a torn last line. The file is in order of steps."""
    if path.exists():
        end = 0
        for record, stop in _lines(path):
            if record["step"] > step:
                break
            end = stop
        os.truncate(path, end)


def _lines(path: Path) -> list[tuple[dict[str, Any], int]]:
    """(record, byte offset of its end) of each whole line up to the first damaged one."""
    found, end = [], 0
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            found.append((record, end))
    return found


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
