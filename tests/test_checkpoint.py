import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pcr_run.errors import ConfigError, RunError
from pcr_run.run import checkpoint


def save(directory: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(directory, step, {"model": {"w": torch.full((3,), float(step))}}, keep)


def test_the_newest_intact_one_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 2
    assert torch.equal(state["model"]["w"], torch.full((3,), 2.0))


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none") is None


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-000100", "step-000010"]


@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    data = bytearray(path.read_bytes())
    match damage:
        case "flipped":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "gone":
            path.unlink()
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert "step-000002" in caplog.text


def test_it_is_an_error_when_none_is_intact(tmp_path: Path) -> None:
    (save(tmp_path, 1) / checkpoint.STATE).write_bytes(b"")
    with pytest.raises(ConfigError, match="step-000001"):
        checkpoint.load_newest(tmp_path)


def test_an_interrupted_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(RunError, match="step-000002: no space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_leftovers_of_a_killed_save_do_not_matter(tmp_path: Path) -> None:
    save(tmp_path, 1)
    torn = tmp_path / ".step-000002.tmp"
    torn.mkdir()
    (torn / checkpoint.STATE).write_bytes(b"half")
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    save(tmp_path, 2)
    assert not torn.exists()


def test_random_states_go_on_where_they_were() -> None:
    state = checkpoint.random_state()
    first = (torch.rand(3), random.random(), np.random.rand())
    checkpoint.restore_random_state(state)
    again = (torch.rand(3), random.random(), np.random.rand())
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]
