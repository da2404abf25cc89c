"""What a response claims: the boxed answer, the last number, the program. Linear time on hostile text."""

from __future__ import annotations

import re

TAIL = 65_536
"""Characters at the end of a response that are searched for an answer; an answer stands at the end."""

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w])")


THINK = ("<think>", "</think>")
"""The tags around what most models think before they answer."""


def visible(response: str, thinking: tuple[str, str] = THINK) -> str:
    """The text after the last thought, without what an unclosed one hides; ``thinking`` are the tags around one."""
    opened, closed = thinking
    return response.rsplit(closed, 1)[-1].split(opened, 1)[0]


def thinks_on(response: str, thinking: tuple[str, str] = THINK) -> bool:
    """Whether a response ends inside a thought."""
    opened, closed = thinking
    return opened in response.rsplit(closed, 1)[-1]


def boxed(response: str) -> str | None:
    r"""Content of the last balanced ``\boxed{...}`` of the visible text, None without one."""
    text = visible(response)[-TAIL:]
    opened: list[int] = []  # where the content of each open brace starts; negative for braces that are no box
    last = (-1, -1)
    for token in _BRACE.finditer(text):
        if token[0] == "{":
            opened.append(-1)
        elif token[0] == "}":
            start = opened.pop() if opened else -1
            if start > last[0]:
                last = (start, token.start())
        elif token[0].startswith("\\boxed"):
            opened.append(token.end())
    return None if last[0] < 0 else text[last[0] : last[1]].strip()


def last_number(response: str) -> str | None:
    """The last plain number of the visible text, without thousands separators."""
    numbers = _NUMBER.findall(visible(response)[-TAIL:])
    return numbers[-1].replace(",", "") if numbers else None


def _blocks(text: str) -> list[tuple[str, str]]:
    """(tag, body) of each closed fenced block."""
    blocks: list[tuple[str, str]] = []
    tag: str | None = None
    body: list[str] = []
    for line in text.splitlines():
        mark = line.strip()
        if tag is None and mark.startswith("```") and "`" not in mark[3:]:
            tag, body = mark[3:].strip().lower(), []
        elif tag is not None and mark == "```":
            blocks.append((tag, "\n".join(body)))
            tag = None
        elif tag is not None:
            body.append(line)
    return blocks


def program(response: str) -> str:
    """The last fenced Python block of the visible text, else its last fenced block, else all of it."""
    text = visible(response)
    blocks = _blocks(text)
    python = [body for tag, body in blocks if tag in ("python", "py", "python3")]
    if blocks:
        return python[-1] if python else blocks[-1][1]
    return text.strip("\n")


def fenced(response: str) -> bool:
    """Whether the visible text holds a closed code block."""
    return bool(_blocks(visible(response)))
