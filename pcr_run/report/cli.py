"""The command ``pcr-report``: a sweep's summary again, from disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pcr_run.errors import ConfigError
from pcr_run.report import summary


def main() -> int:
    """Entry point of ``pcr-report``; the exit code is 0, or 2 for a directory without runs."""
    parser = argparse.ArgumentParser(prog="pcr-report", description="Write and print the summary of a sweep.")
    parser.add_argument("directory", type=Path, help="directory of a sweep (or of one run)")
    try:
        summary.show(parser.parse_args().directory.absolute())
    except ConfigError as error:
        print(f"pcr-report: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pcr-report: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
