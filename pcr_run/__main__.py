"""``python -m pcr_run`` is ``pcr-run``: what ``torchrun -m`` starts."""

import sys

from pcr_run.cli import main

if __name__ == "__main__":
    sys.exit(main())
