"""The command line ends in one sentence as soon as Ctrl-C meets it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib

import pytest

from helpers.places import ROOT
from qffs import __main__

EARLY = """
import os, signal, sys
from qffs import __main__

class Stopping:
    def find_spec(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
        except BaseException as error:  # as Python does with errors of descriptors
            raise RuntimeError("something else") from error

sys.meta_path.insert(0, Stopping)
__main__.main()
"""


def test_an_interruption_while_modules_are_imported_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "qffs: stopped\n")


def test_what_python_does_with_signals_is_back_when_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr("qffs.cli.main", lambda: seen.append(signal.getsignal(signal.SIGINT)))
    __main__.main()
    assert seen == [usual]


def test_the_script_begins_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"qffs": "qffs.__main__:main"}
