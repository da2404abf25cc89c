"""Made models appear whole or not at all, and are made once."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pcr_run.errors import ConfigError
from pcr_run.model import cache


def make_slowly(directory: Path) -> None:
    (directory / "half").write_text("1")
    time.sleep(0.3)
    (directory / "whole").write_text(str(os.getpid()))
    with (directory.parents[1] / "count").open("a") as log:
        log.write("x")


def use(target: Path) -> None:
    assert (cache.made(target, make_slowly) / "whole").exists()


def test_processes_that_want_it_at_once_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=use, args=(tmp_path / "model",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "x"


def test_a_maker_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("1")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.made(tmp_path / "model", fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.lock"]
    assert (cache.made(tmp_path / "model", make_slowly) / "whole").exists()


def test_a_killed_maker_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=use, args=(tmp_path / "model",))
    worker.start()
    while not list(tmp_path.glob("*/model/half")):
        time.sleep(0.01)
    worker.kill()
    worker.join()
    assert not (tmp_path / "model").exists()
    use(tmp_path / "model")


def test_the_place_depends_on_every_source_and_their_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PCR_RUN_CACHE", str(tmp_path))
    names = {cache.place("m", sources) for sources in ([b"a", b"b"], [b"b", b"a"], [b"ab"], [b"a", b"b", b""])}
    assert len(names) == 4
    assert all(place.parent == tmp_path for place in names)


def test_the_users_cache_directory_is_used_without_a_choice(monkeypatch) -> None:
    monkeypatch.delenv("PCR_RUN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/pcr-run")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache" / "pcr-run"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write") as error:
        cache.made(tmp_path / "file" / "model", make_slowly)
    assert error.value.key == "PCR_RUN_CACHE"
