"""Numbers as a table shows them."""

from __future__ import annotations

import math


def number(value: float | None, places: int = 3, sign: str = "") -> str:
    """``places`` after the point, powers of ten for what would not fit or show nothing; null is not finite on disk.

    >>> number(12.3456), number(6.8e19), number(0.00001234, sign="+"), number(math.inf), number(None)
    ('12.346', '6.80e+19', '+1.23e-05', 'inf', 'not finite')
    """
    if value is None:
        return "not finite"
    if not math.isfinite(value):
        return f"{value:{sign}}"
    small = value != 0 and abs(value) < 10**-places
    return f"{value:{sign}.2e}" if small or abs(value) >= 1e6 else f"{value:{sign}.{places}f}"
