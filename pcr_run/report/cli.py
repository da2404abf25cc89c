"""The command ``pcr-report``: summary and report of runs and sweeps, from disk."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pcr_run.errors import ConfigError
from pcr_run.report import build, summary
from pcr_run.report.cells import load

SECONDS = 2.0
"""Between two looks at the files with ``--watch``."""


def main() -> int:
    """Entry point of ``pcr-report``; the exit code is 0, or 2 for a directory without runs or a wrong experiment."""
    parser = argparse.ArgumentParser(prog="pcr-report", description="Write the report of runs and sweeps.")
    parser.add_argument(
        "directory", type=Path, nargs="+", help="directory of a sweep or of a run; several are put together"
    )
    parser.add_argument("--out", type=Path, help="where the report goes; default: report/ in the first directory")
    parser.add_argument("--watch", action="store_true", help="write it again whenever a run has written, until Ctrl-C")
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not have ±
    directories = [directory.absolute() for directory in given.directory]
    try:
        _write(directories, given.out)
        if given.watch:
            _watch(directories, given.out)
    except KeyboardInterrupt:
        return 0 if given.watch else 130
    except ConfigError as error:
        print(f"pcr-report: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pcr-report: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _write(directories: Sequence[Path], out: Path | None) -> None:
    read = {directory: load(directory) for directory in directories}
    for directory, cells in read.items():
        if out is None:
            summary.show(directory, cells)
        else:  # the directory may be one that only others may write
            print(summary.text(directory, cells), end="")
    print(f"report: {build.write(directories, out, read)}", flush=True)


def _watch(directories: Sequence[Path], out: Path | None) -> None:
    """Write the report whenever a file of a run is newer than before; what is wrong meanwhile is said, once each."""
    seen = _newest(directories)
    while True:
        time.sleep(SECONDS)
        newest = _newest(directories)
        if newest != seen:
            seen = newest
            try:
                print(f"report: {build.write(directories, out)} ({time.strftime('%H:%M:%S')})", flush=True)
            except (ConfigError, OSError) as error:
                print(f"pcr-report: error: {error}", file=sys.stderr)


def _newest(directories: Sequence[Path]) -> dict[Path, int]:
    """When each file of records was last written."""
    found = {}
    for directory in directories:
        for pattern in ("*.jsonl", "*/*.jsonl", "result.json", "*/result.json", "experiments/*.json"):
            for path in directory.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # it was there a moment ago
                    found[path] = path.stat().st_mtime_ns
    return found


if __name__ == "__main__":
    sys.exit(main())
