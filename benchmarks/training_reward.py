"""Did the training reward rise? The same questions at their last visit and at their first, from one run's directory.

    pcr-run tracker.transcripts=1000 hydra.run.dir=RUN ...    # every response of a step goes to rollouts.jsonl
    python benchmarks/training_reward.py RUN

A step's mean reward depends on which questions it drew, so each question is compared with itself: mean reward over its
G responses at the last visit minus that at the first, with a 95% t-interval over questions. Questions that came up once
say nothing here, so the run must see its questions more than once.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from pcr_run.records.jsonl import read
from pcr_run.report.statistics import mean_interval


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    visits: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in read(parser.parse_args().run / "rollouts.jsonl"):
        visits[line["item"]][line["step"]].append(line["reward"])
    pairs = [(fmean(steps[min(steps)]), fmean(steps[max(steps)])) for steps in visits.values() if len(steps) > 1]
    if len(pairs) < 2:
        print(f"{len(pairs)} of {len(visits)} questions came up more than once; give the run more steps")
        return 1
    change, half = mean_interval([last - first for first, last in pairs])
    first, last = map(fmean, zip(*pairs, strict=True))
    print(f"{len(pairs)} questions: reward {first:.3f} at the first visit, {last:.3f} at the last")
    print(f"difference {change:+.3f} ± {half:.3f} (95% t-interval over questions)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
