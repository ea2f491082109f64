"""The spinner: on a terminal, after a while, and gone at the end; bars and spinners of one process of several."""

from __future__ import annotations

import time

import pytest

from qffs import progress


def shown(capsys: pytest.CaptureFixture[str], seconds: float = 0.0, show: bool = True) -> str:
    with progress.wait("reading it", show=show):
        time.sleep(seconds)
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_spinner_shows_on_a_terminal_once_the_work_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert shown(capsys) == ""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    assert "reading it" in shown(capsys, 0.3)
    assert shown(capsys, 0.3, show=False) == ""


def test_without_a_terminal_nothing_shows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    assert shown(capsys, 0.2) == ""


def test_an_error_ends_the_spinner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
    with pytest.raises(KeyError), progress.wait("reading it"):
        raise KeyError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_one_process_of_several_shows_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    for number, shows in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", number)
        assert ("reading it" in shown(capsys, 0.3)) is shows
        with progress.track("counting", 1, "things") as bar:
            bar.advance()
        assert ("counting" in capsys.readouterr().err) is shows
