"""The file a run goes on from, and signals."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from helpers.full_disk import full_from
from qffs.errors import CheckpointError, Stopped
from qffs.train.state import Interruption, RunState


def test_what_was_written_is_read_and_gone_when_it_is_removed(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    assert state.read() is None
    state.write({"stage": "quantized", "step": 3, "network": {"weight": torch.arange(4.0)}})
    state.write({"stage": "quantized", "step": 4, "network": {"weight": torch.arange(5.0)}})
    found = state.read()
    assert found is not None
    assert found["step"] == 4
    assert torch.equal(found["network"]["weight"], torch.arange(5.0))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    state.remove()
    state.remove()
    assert not list(tmp_path.iterdir())


def test_it_is_due_after_its_seconds() -> None:
    assert RunState(Path(), 0.0).due
    assert not RunState(Path(), 1e6).due


class Bad:
    """What the file may not hold: reading it back would run code."""


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = RunState(tmp_path)
    state.write({"step": 3})
    before = state.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; the last one, in .* is complete"):
        state.write({"step": 4})
    monkeypatch.setattr(os, "replace", full)
    assert state.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    with pytest.raises(CheckpointError, match="could not be written: No such file or directory"):
        RunState(tmp_path / "none").write({})


def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    with full_from(1000), pytest.raises(CheckpointError, match=f"written: File too large \\({state.path}\\)$"):
        state.write({"weights": torch.arange(5000.0)})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_one_sentence_and_runs_no_code(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    state.path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        state.read()
    torch.save({"step": Bad()}, state.path)
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        state.read()
    for content in (b"", b"text, and no more"):
        state.path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"state\.pt cannot be read: \w"):
            state.read()
    state.path.unlink()
    os.mkfifo(state.path)
    with pytest.raises(CheckpointError, match="it is no regular file"):
        state.read()
    state.path.unlink()
    for value in ([1, 2], {"epoch": 3}):
        torch.save(value, state.path)
        with pytest.raises(CheckpointError, match=r"state\.pt holds no state of a run$"):
            state.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once_or_at_the_end_of_what_is_not_to_be_broken_off(number: signal.Signals) -> None:
    reached = []

    def work(deferred: bool) -> None:
        with Interruption("; so what").watching() as interruption:
            with interruption.deferred() if deferred else nullcontext():
                os.kill(os.getpid(), number)
                reached.append(interruption.asked)
            reached.append("more")

    before = signal.getsignal(number)
    for deferred, seen in ((False, []), (True, [number])):
        with pytest.raises(Stopped, match=f"^stopped by {number.name}; so what$") as raised:
            work(deferred)
        assert raised.value.signal == number
        assert reached == seen
        assert signal.getsignal(number) is before


def test_no_code_that_explains_failures_takes_a_signal_for_one() -> None:
    def work() -> None:
        with Interruption().watching():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:
                pytest.fail("taken for a failure")

    with pytest.raises(Stopped):
        work()
