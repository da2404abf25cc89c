"""``docs/configuration.md``, from the schema and the YAML groups: ``python -m pcr_run.configuration.reference``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import omegaconf

from pcr_run.configuration.check import CHOICES, RANGES
from pcr_run.schema import Config

CONF = Path(str(resources.files("pcr_run.conf")))
TARGET = CONF.parent / "docs" / "configuration.md"
COLUMNS = ("key", "type", "default", "right", "meaning")

INTRODUCTION = """\
# Configuration reference

Made from `pcr_run/schema/` and `conf/` by `make docs`; do not edit.

A run is composed from groups (`resolver=pcgrad`, one file each) and keys (`learner.lr=1e-5`). What a group sets, a key
on the command line overrides. `pcr-run --cfg job --resolve ...` prints the outcome. `--config-dir DIR` adds a directory
of your own with further groups and the Python files that they name.
"""

HYDRA = """\
## Directories and sweeps

| key | default | meaning |
| --- | --- | --- |
| `hydra.run.dir` | `outputs/<task>-<resolver>-seed<seed>-...-<hash>` | directory of a run, the same for the same \
configuration: the same command goes on |
| `hydra.sweep.dir` | `outputs/sweep-<what varies>-<hash>` | directory of a sweep (`-m`), with one directory a cell |
| `hydra.launcher.parallel` | `null` | cells at a time; null = one for each GPU of the list, else 1 |
| `hydra.launcher.gpus` | `[]` | GPUs dealt out `launch.nproc` to each running cell, by `CUDA_VISIBLE_DEVICES` |

`resume`, `dry_run`, `tracker`, `checkpoint` and `launch` may differ when a run goes on; with any other difference the
directory is refused. Exit codes: 0 all done; 1 a run failed; 2 bad configuration; 130, 143 interrupted, can go on.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Groups\n", _table(("group", "choices"), _groups()), "## Keys\n"]
    parts.append(_table(COLUMNS, map(_row, _plain(Config))))
    for section in fields(Config):
        if is_dataclass(section.default_factory):
            parts += list(_section(section, section.name))
    return "\n".join([*parts, HYDRA])


def _section(section: Field[Any], key: str) -> Iterator[str]:
    schema: Any = section.default_factory
    yield f"### `{key}`: {section.metadata['doc']}\n\n{(schema.__doc__ or '').strip()}\n"
    yield _table(COLUMNS, (_row(entry, f"{key}.") for entry in _plain(schema)))
    for entry in fields(schema):
        if is_dataclass(entry.default_factory):
            yield from _section(entry, f"{key}.{entry.name}")


def _plain(schema: Any) -> list[Field[Any]]:
    return [entry for entry in fields(schema) if not is_dataclass(entry.default_factory)]


def _row(entry: Field[Any], prefix: str = "") -> tuple[str, ...]:
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    written = default if isinstance(default, str) else json.dumps(default)
    shown = "set by the group" if default == omegaconf.MISSING else f"`{written}`"
    return f"`{prefix}{entry.name}`", f"`{entry.type}`", shown, _right(f"{prefix}{entry.name}"), entry.metadata["doc"]


def _right(key: str) -> str:
    """Which values a key may have."""
    if key in RANGES:
        return RANGES[key].text
    return ", ".join(f"`{name}`" for name in CHOICES.get(key, ()))


def _groups() -> Iterator[tuple[str, str]]:
    """Each directory of ``conf/`` with its files; a comment at the top of a file says what it is."""
    for directory in sorted({path.parent for path in CONF.rglob("*.yaml")} - {CONF}):
        options = []
        for path in sorted(directory.glob("*.yaml")):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            about = " ".join(line for line in comments if not line.startswith("@package"))
            options.append(f"`{path.stem}`" + (f": {about}" if about else ""))
        yield f"`{directory.relative_to(CONF)}`", "<br>".join(options)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
