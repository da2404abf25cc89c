"""A soft punishment of long responses, before they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pcr_run.data import Completion, Score


def shortened(scores: Sequence[Score], completions: Sequence[Completion], window: int, longest: int) -> list[Score]:
    """Scores less what a response has used of the last ``window`` of its ``longest`` tokens, 0 to 1.

    0 up to longest - window tokens, then linear, 1 at the limit (DAPO, Yu et al. 2025, arXiv 2503.14476, Eq. 13).
    Without a window nothing changes. Verdicts stay.
    """
    if not window:
        return list(scores)
    used = [max(0, len(each.token_ids) - (longest - window)) / window for each in completions]
    return [
        replace(score, value=score.value - share, parts=score.parts | {"overlong": -share})
        for score, share in zip(scores, used, strict=True)
    ]
