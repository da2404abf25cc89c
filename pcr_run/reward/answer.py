"""What a response claims: the boxed answer, the last number, the program. Linear time on hostile text."""

from __future__ import annotations

import re

TAIL = 65_536
"""Characters at the end of a response that are searched for an answer; an answer stands at the end."""

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_OPENING = re.compile(r"(\s*(?:(?:[-*+]|\d{1,9}[.)])\s+){0,3})(`{3,}|~{3,})(.*)")
_PYTHON = ("python", "py", "python3")
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
    """(tag, body) of each closed fenced block, as CommonMark has it.

    A closing fence stands at most three columns to the right of the opening one, so that a fence inside a docstring
    closes nothing; a block in a list item loses the indentation of the item.
    """
    blocks: list[tuple[str, str]] = []
    opening: tuple[int, str, str] | None = None  # column, fence, tag
    body: list[str] = []
    for line in text.splitlines():
        if opening is None:
            if (match := _OPENING.fullmatch(line)) and (match[2][0] == "~" or "`" not in match[3]):
                opening, body = (len(match[1].expandtabs(4)), match[2], match[3].strip().lower()), []
            continue
        column, fence, tag = opening
        mark = line.strip()
        indent = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
        if len(mark) >= len(fence) and not mark.strip(fence[0]) and indent <= column + 3:
            blocks.append((tag, "\n".join(body)))
            opening = None
        else:
            body.append(line[min(column, len(line) - len(line.lstrip(" "))) :])
    return blocks


def program(response: str, entry_point: str | None = None) -> str:
    """The last fenced Python block of the visible text, else its last fenced block, else all of it.

    Where an entry point is asked for, a block that only shows its use does not count: the last one that defines it.
    """
    text = visible(response)
    blocks = _blocks(text)
    if not blocks:
        return text.strip("\n")
    bodies = [body for tag, body in blocks if tag.split(" ")[0] in _PYTHON] or [body for _, body in blocks]
    if entry_point:
        name = re.escape(entry_point)
        defines = re.compile(rf"^(?:async +)?(?:def|class) +{name}\b|^{name} *(?::[^=\n]*)?=(?!=)", re.MULTILINE)
        bodies = [body for body in bodies if defines.search(body)] or bodies
    return bodies[-1]


def fenced(response: str) -> bool:
    """Whether the visible text holds a closed code block."""
    return bool(_blocks(visible(response)))
