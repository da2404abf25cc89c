"""Measurements kept between runs: the same weights are measured once by the same benchmark and protocol.

An entry is one JSON file named by the SHA-256 of all that its value depends on. It appears whole or not at all; a
damaged one is measured again. Of several processes that want an entry at once one measures it and the others wait.
A cache that cannot be used costs time, never a result.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pcr_run.evaluation.piece import Piece, digest
from pcr_run.model import cache

log = logging.getLogger(__name__)


class MissingError(LookupError):
    """No whole entry is there."""


class Cache:
    """Entries of one policy: ``subject`` is all that every measurement of it depends on, as JSON has it."""

    def __init__(self, subject: Mapping[str, Any], directory: Path | None = None) -> None:
        self.subject, self.directory = dict(subject), directory or cache.root() / "evaluations"

    def key(self, piece: Piece) -> str:
        """SHA-256 of what the piece's value depends on."""
        return digest([piece.section, self.subject, dict(piece.identity())])

    def get(self, piece: Piece) -> Any:
        """The value that was measured, to the last bit; raises ``MissingError``."""
        path = self._path(self.key(piece))
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if digest(entry["value"]) != entry["sha256"]:
                raise ValueError("its value does not match its checksum")
        except FileNotFoundError as error:
            raise MissingError(piece.label) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is not used (%s: %s); measuring again", path, type(error).__name__, error)
            raise MissingError(piece.label) from error
        return entry["value"]

    def measured(self, piece: Piece, measure: Callable[[], Any]) -> tuple[Any, bool]:
        """(value, whether it was there): another process may have measured it while this one waited for it."""
        with self._alone(self._path(self.key(piece))):
            try:
                return self.get(piece), True
            except MissingError:
                value = measure()
                self.put(piece, value)
                return value, False

    def put(self, piece: Piece, value: Any) -> None:
        """Keep a value; where that fails, the log says so."""
        path = self._path(self.key(piece))
        entry = {"what": [piece.section, *piece.names], "sha256": digest(value), "value": value}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(entry), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            log.warning("%s is not kept: cannot write %s (%s)", piece.label, path, error.strerror)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.json"

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Hold the entry's lock, which dies with its process; none where the file system has no locks."""
        lock = FileLock(path.with_suffix(".lock"))
        with contextlib.suppress(OSError, NotImplementedError):  # `put` will say why nothing is kept
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
