"""The sandbox's side of the call protocol. Runs as ``python -c`` after ``plain.py``, with the standard library alone.

Nothing here is trusted once the candidate's code runs: whatever it does to this process, it can only send messages,
and those can only express plain data.
"""

import __future__

import builtins
import os
import sys

FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pcr_run.reward.sandbox.plain import NotPlainError, decode, encode


def read_exactly(fd: int, size: int) -> bytes:
    """``size`` bytes of a pipe; ends the process at end of file."""
    parts = []
    while size:
        part = os.read(fd, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive(fd: int) -> str:
    """One message: eight bytes of length, then ASCII text."""
    return read_exactly(fd, int.from_bytes(read_exactly(fd, 8), "big")).decode("ascii")


def tell(fd: int, value: object, origin: "dict[int, int] | None" = None) -> None:
    """The same for the other direction."""
    data = encode(value, origin)[0].encode("ascii")
    data = len(data).to_bytes(8, "big") + data
    while data:
        data = data[os.write(fd, data) :]


def serve(inbox: int, outbox: int) -> None:
    """Load the candidate, then answer calls until the other side hangs up."""
    tell(outbox, "ready")
    (entry_point, preamble, source), _ = decode(receive(inbox))
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # which -S leaves out
    try:  # apart, so that the program may begin with an import from __future__
        before = compile(preamble, "<preamble>", "exec")
        code = compile(source, "<candidate>", "exec", before.co_flags & FUTURE)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as problem:
        tell(outbox, ("unparsed", type(problem).__name__))
        return
    module = type(sys)("__main__" if entry_point is None else "candidate")
    sys.modules[module.__name__] = module
    if "random" in source:  # the same program gets the same reward in every run
        import random

        random.seed(0)
    if entry_point is None:
        tell(outbox, ("defined", None))
        os.close(inbox)
        os.close(outbox)
        exec(before, module.__dict__)
        exec(code, module.__dict__)
        return
    try:
        exec(before, module.__dict__)
        exec(code, module.__dict__)
    except BaseException as problem:
        tell(outbox, ("raised", [type(problem).__name__, str(problem)[:200]]))
        return
    function = getattr(module, entry_point, None)
    if not callable(function):
        tell(outbox, ("unparsed", "no " + entry_point))
        return
    tell(outbox, ("defined", None))
    while True:
        (args, kwargs), values = decode(receive(inbox))
        origin = {id(value): line for line, value in enumerate(values) if isinstance(value, (list, dict, set))}
        try:
            reply = ("returned", function(*args, **kwargs), args, kwargs)
        except BaseException as problem:
            names = [base.__name__ for base in type(problem).__mro__ if base.__module__ == "builtins"]
            reply = ("raised", [*names, str(problem)[:200]], args, kwargs)
        try:
            tell(outbox, reply, origin)
        except NotPlainError as problem:
            tell(outbox, ("not plain", str(problem), args, kwargs), origin)
