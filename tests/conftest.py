"""What all tests share."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command_line import Said
from qffs import cli

# pytest keeps every record of the tests, and for it PyTorch would write down each step of an export: gigabytes.
logging.getLogger("torch.__trace").disabled = True


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Said]:
    """Run a command line of qffs in the folder of the test, in this process: an import of torch takes seconds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["qffs", *map(str, arguments)])
        code: object = 0
        handler = signal.getsignal(signal.SIGTERM)  # which training replaces for good
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
        return Said(code, *capsys.readouterr())

    return run
