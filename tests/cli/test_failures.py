"""Failures outside of the library are one sentence and exit code 2: full disks, closed pipes, encodings, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from helpers.command_line import Said
from qffs import cli
from qffs.cli.failures import explained

QUICK = [sys.executable, "-m", "qffs", "recipes", "list"]
"""A command that does not import torch."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "net"), "net: Permission denied"),
        (OSError(28, "No space left on device"), "the output cannot be written: No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), "the reader of the output closed it before its end"),
        (UnicodeEncodeError("ascii", "θ", 0, 1, "ordinal not in range(128)"), "in the encoding of this terminal"),
        (MemoryError(), "memory is too small"),
        (MemoryError("Unable to allocate 5 TiB"), "memory is too small: Unable to allocate 5 TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB\nmore"), "memory is too small: Default"),
        (RecursionError("maximum recursion depth exceeded"), "nested deeper than Python can follow"),
    ],
)
def test_a_failure_outside_is_one_sentence(
    error: Exception, sentence: str, command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    said = command_line()
    assert said.code == 2
    assert sentence in said.err
    assert said.err.startswith("qffs: ")
    assert said.err.count("\n") == 1


def test_a_bug_stays_an_error(command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("snn"), RuntimeError("shapes differ"), TypeError("no number")):
        assert explained(error) is None

    def fail() -> None:
        raise KeyError("snn")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError):
        command_line()


def ended(**options: Any) -> tuple[int, str]:
    process = subprocess.run(QUICK, stderr=subprocess.PIPE, text=True, check=False, **options)
    return process.returncode, process.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert ended(stdout=full) == (2, "qffs: the output cannot be written: No space left on device\n")


def test_a_pipe_that_closes() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        assert ended(stdout=pipe) == (2, "qffs: the reader of the output closed it before its end\n")


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    script = "import qffs.cli as cli; cli.app = lambda: print('\\u03b8 = 1'); cli.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "? = 1\n"), done.stderr


def test_a_sentence_that_cannot_be_printed(command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(typer, "echo", full)
    monkeypatch.setattr(cli, "app", fail)
    assert command_line().code == 2
