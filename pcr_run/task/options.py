"""Options from a configuration, held against the function that takes them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from pcr_run.errors import ConfigError

SIMPLE = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def names(function: Callable[..., Any], skip: int = 0) -> list[str]:
    """What a function takes, without its first ``skip`` parameters."""
    return list(inspect.signature(function).parameters)[skip:]


def check_known(key: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``ConfigError`` for an option that is none of ``known``."""
    for name in options:
        if name not in known:
            raise ConfigError(f"{key}.{name}", f"unknown option; right: {', '.join(known)}")


def check_types(key: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for an option of another type than the function's annotation, where that is a plain one."""
    hints = get_type_hints(function)
    for name, value in options.items():
        hint = hints.get(name, Any)
        several = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        right = [get_origin(each) or each for each in several]
        plain = [each for each in right if each in SIMPLE]
        if len(plain) + (types.NoneType in right) < len(right):
            continue
        fits = any(type(value) is each or (each is float and type(value) is int) for each in right)
        if not fits:
            told = " or ".join([*(SIMPLE[each] for each in plain), *(["null"] if types.NoneType in right else [])])
            raise ConfigError(f"{key}.{name}", f"{told}, not {value!r}")
