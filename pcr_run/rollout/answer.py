"""The server's side of a run that asks: one request at a time, until the run hangs up.

The first message holds the server's arguments and is answered with ("done", None); each further one is (method, its
arguments). An answer is any number of ("item", value), then ("done", value) or ("error", message).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


def answer(
    connection: Connection, make: Callable[[dict[str, Any]], Any], dies_of: type[Exception] | tuple[()] = ()
) -> None:
    """Make the server and let it answer; ``dies_of``: the error after which it can do nothing more."""
    try:
        server = make(connection.recv())
    except Exception as error:  # a start-up fails in as many ways as it has parts; all of them end the same way
        connection.send(("error", f"{type(error).__name__}: {error}"))
        raise
    connection.send(("done", None))
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            value = getattr(server, method)(*arguments)
            if isinstance(value, Iterator):
                for item in value:
                    connection.send(("item", item))
                value = None
            connection.send(("done", value))
        except dies_of:
            raise
        except Exception as error:  # the run decides what an error means; it must not cost the server
            connection.send(("error", f"{type(error).__name__}: {error}"))
