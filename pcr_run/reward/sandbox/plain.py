"""Codec of plain data: None, bool, int, float, str, list, tuple, dict, set, frozenset; nothing else can be expressed.

A message is a table with one line a value, children named by line number, so that shared, recursive and deeply
nested values need no recursion. The last line is the root. This file also runs inside the sandbox: no imports there.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_VALUES = 1_000_000
MAX_DEPTH = 500  # of nested tuples: the interpreter hashes and compares them recursively

BASES = (bool, int, float, str, list, tuple, dict, set, frozenset)
KINDS = {list: "l", tuple: "t", dict: "d", set: "e", frozenset: "z"}


class NotPlainError(TypeError):
    """A value that plain data cannot express, or a message that does not describe a value."""


class TooMuchError(NotPlainError):
    """Plain data, but more of it than a message can hold."""


def base_of(value: "Any") -> type:
    """The plain type that a value is an instance of, exact or derived."""
    for base in BASES:
        if isinstance(value, base):
            return base
    raise NotPlainError(type(value).__name__)


def _children(value: "Any", base: "Any") -> "list[Any]":
    """Elements, or keys and values in turn, whatever a subclass makes of iteration."""
    return [part for pair in dict.items(value) for part in pair] if base is dict else list(base.__iter__(value))


def scalar(value: "Any", base: type | None) -> str:
    """One line for a leaf value."""
    if value is None:
        return "n"
    if base is bool:
        return "b1" if value else "b0"
    if base is int:
        return "i" + hex(int.__index__(value))
    if base is float:
        return "f" + float.hex(value)
    return "s" + str.encode(value, "unicode_escape").decode()


def encode(root: "Any", origin: "Mapping[int, int] | None" = None) -> "tuple[str, list[Any]]":
    """The message for a value, and the value behind each of its lines.

    ``origin`` maps ``id(container)`` to its line in an earlier message.
    """
    origin = origin or {}
    lines: list[Any] = []  # finished lines, or (kind, base, children) of containers
    values: list[Any] = []  # by line
    index: dict[int, int] = {}  # id(value) -> line; the snapshots in `alive` keep every value alive
    alive: list[Any] = []
    stack: list[tuple[Any, list[Any] | None]] = [(root, None)]
    while stack:
        value, children = stack.pop()
        if children is not None:  # a tuple whose children are numbered
            if id(value) not in index:
                index[id(value)] = len(lines)
                lines.append(("t" if isinstance(value, tuple) else "z", "", children))
                values.append(value)
            continue
        if id(value) in index:
            continue
        if len(lines) > MAX_VALUES:
            raise TooMuchError("too many values")
        base = None if value is None else base_of(value)
        if base not in KINDS:
            index[id(value)] = len(lines)
            lines.append(scalar(value, base))
            values.append(value)
            continue
        children = _children(value, base)
        alive.append(children)
        if base is tuple or base is frozenset:
            stack.append((value, children))
        else:
            index[id(value)] = len(lines)
            lines.append((KINDS[base], str(origin.get(id(value), "")), children))
            values.append(value)
        stack.extend((child, None) for child in reversed(children) if id(child) not in index)
    table = [
        line if isinstance(line, str) else line[0] + line[1] + ":" + ",".join([str(index[id(c)]) for c in line[2]])
        for line in lines
    ]
    table.append("r" + str(index[id(root)]))
    return "\n".join(table), values


def leaf(line: str) -> "Any":
    """The value of one leaf line."""
    kind, rest = line[:1], line[1:]
    if kind == "n":
        return None
    if kind == "b":
        return rest == "1"
    if kind == "i":
        return int(rest, 16)
    if kind == "f":
        return float.fromhex(rest)
    if kind == "s":
        return rest.encode("ascii").decode("unicode_escape")
    raise NotPlainError("unknown kind")


def decode(message: str, originals: "Sequence[Any]" = ()) -> "tuple[Any, list[Any]]":
    """The value of a message and all values by line. Containers that name an original are changed in place."""
    try:
        return _decode(message, originals)
    except (ValueError, IndexError, TypeError, OverflowError, UnicodeError) as problem:
        raise NotPlainError(str(problem)[:200]) from None


def _decode(message: str, originals: "Sequence[Any]") -> "tuple[Any, list[Any]]":
    lines = message.split("\n")
    if len(lines) > MAX_VALUES:
        raise TooMuchError("too many values")
    root = lines.pop()
    values: list[Any] = []
    depth: list[int] = []
    containers: list[tuple[int, str, list[int]]] = []
    for number, line in enumerate(lines):
        kind = line[:1]
        depth.append(0)
        if kind not in "ltdez" or not kind:
            values.append(leaf(line))
            continue
        name, _, refs = line[1:].partition(":")
        children = [int(ref) for ref in refs.split(",")] if refs else []
        if children and not 0 <= min(children) <= max(children) < len(lines):
            raise NotPlainError("a child outside the table")
        if kind in "tz":
            if children and max(children) >= number:
                raise NotPlainError("a tuple before its children")
            depth[number] = 1 + max([depth[child] for child in children], default=0)
            if depth[number] > MAX_DEPTH:
                raise NotPlainError("nested too deeply")
            parts = [values[child] for child in children]
            values.append(tuple(parts) if kind == "t" else frozenset(parts))
            continue
        plain = {"l": list, "d": dict, "e": set}[kind]
        value = originals[int(name)] if name else plain()
        if not isinstance(value, plain):
            raise NotPlainError("an original of another type")
        containers.append((number, kind, children))
        values.append(value)
    for number, kind, children in containers:
        parts = [values[child] for child in children]
        if kind == "l":
            values[number][:] = parts
        elif kind == "d":
            values[number].clear()
            values[number].update(zip(parts[::2], parts[1::2], strict=True))
        else:
            values[number].clear()
            values[number].update(parts)
    if root[:1] != "r":
        raise NotPlainError("no root")
    return values[int(root[1:])], values
