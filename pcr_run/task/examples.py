"""Solved examples of functions to complete, for benchmarks without a training split; none is one of HumanEval."""

from __future__ import annotations

from pcr_run.data import Message
from pcr_run.errors import ConfigError
from pcr_run.task.shapes import complete

EXAMPLES = (
    (
        'def mean_of_squares(numbers: list[float]) -> float:\n    """Mean of the squares; 0.0 for no numbers.\n\n'
        '    >>> mean_of_squares([1.0, 3.0])\n    5.0\n    """',
        "    if not numbers:\n        return 0.0\n    return sum(x * x for x in numbers) / len(numbers)",
    ),
    (
        'def initials(name: str) -> str:\n    """First letters of the words, in upper case.\n\n'
        "    >>> initials('ada king lovelace')\n    'AKL'\n    \"\"\"",
        "    return ''.join(word[0].upper() for word in name.split())",
    ),
    (
        'def rotate(items: list, k: int) -> list:\n    """The items moved k places to the left, around the end.\n\n'
        '    >>> rotate([1, 2, 3, 4], 1)\n    [2, 3, 4, 1]\n    """',
        "    if not items:\n        return []\n    k %= len(items)\n    return items[k:] + items[:k]",
    ),
    (
        'def longest_run(text: str) -> int:\n    """Length of the longest run of one and the same character.\n\n'
        '    >>> longest_run(\'abbbcc\')\n    3\n    """',
        "    best = current = 0\n    previous = None\n    for char in text:\n"
        "        current = current + 1 if char == previous else 1\n        previous = char\n"
        "        best = max(best, current)\n    return best",
    ),
    (
        'def group_by_length(words: list[str]) -> dict[int, list[str]]:\n    """Words by their length, in order.\n\n'
        "    >>> group_by_length(['a', 'bb', 'c'])\n    {1: ['a', 'c'], 2: ['bb']}\n    \"\"\"",
        "    groups: dict[int, list[str]] = {}\n    for word in words:\n"
        "        groups.setdefault(len(word), []).append(word)\n    return groups",
    ),
)
"""(head with its docstring, body)."""


def solved(shots: int) -> list[Message]:
    """The first ``shots`` examples as turns of a conversation; ConfigError for more than there are."""
    if not 0 <= shots <= len(EXAMPLES):
        raise ConfigError("task.data.shots", f"{shots} examples; there are 0 to {len(EXAMPLES)}")
    turns: list[Message] = []
    for head, body in EXAMPLES[:shots]:
        turns.append({"role": "user", "content": complete(head)})
        turns.append({"role": "assistant", "content": f"```python\n{head}\n{body}\n```"})
    return turns
