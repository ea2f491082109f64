"""A run that is killed, asked to stop and out of disk, and ends as if nothing had been: real processes and signals."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

CHANGES = ["full_precision.epochs=1", "quantized.epochs=2", "quantized.ema=0.9", "steps=4", "device=cpu"]
MOMENT = """
import os, signal, sys
from importlib import import_module
place, calls = sys.argv.pop(1), int(sys.argv.pop(1))
module, _, name = place.partition(":")
home = import_module(module)
*parents, last = name.split(".")
for parent in parents:
    home = getattr(home, parent)
real = getattr(home, last)

def until(*arguments, **more):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **more)

setattr(home, last, until)
from qffs.cli import main
main()
"""
"""Runs the command line, and a real SIGKILL ends it as it calls a function for the n-th time."""


def start(folder: Path, *first: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, *(first or ("-m", "qffs")), "train", "digits", *CHANGES]
    command += ["--output", str(folder), "--resume", "--save-every", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=limit)  # noqa: PLW1509  # it only sets a limit


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, told = process.communicate(timeout=300)
    return process.returncode, told


def stage_and_step(folder: Path) -> tuple[str, int, int]:
    state = torch.load(folder / "state.pt", weights_only=True)
    return state["stage"], len(state["history"]) + 1, state["step"]


def weights(folder: Path) -> list[bytes]:
    return [(folder / name / "model.safetensors").read_bytes() for name in ("float", "qann", "snn")]


def few_bytes() -> None:
    """Files of half the size of the state: what writes more is told so, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (450_000, 450_000))


@pytest.mark.slow
def test_whatever_happens_to_a_run_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert end(start(whole))[0] == 0

    # Killed in the middle of an epoch, in the middle of a step.
    assert end(start(run, "-c", MOMENT, "torch.optim:SGD.step", "8"))[0] == -signal.SIGKILL
    assert stage_and_step(run) == ("full precision", 1, 7)

    # Killed in the middle of writing the state: the file is there, but not in its place.
    assert end(start(run, "-c", MOMENT, "qffs.train.state:os.fsync", "9"))[0] == -signal.SIGKILL
    (left_behind,) = run.glob(".state.pt.*.new")
    assert left_behind.stat().st_size > 450_000
    assert stage_and_step(run) == ("full precision", 1, 15)

    # Killed in the other stage: it begins with the network that the first one left.
    assert end(start(run, "-c", MOMENT, "torch.optim:SGD.step", "17"))[0] == -signal.SIGKILL
    assert stage_and_step(run) == ("quantized", 1, 9)

    # Asked to stop: it saves where it is, and that is no fault.
    stopped, before = start(run), os.stat(run / "state.pt").st_mtime_ns
    while os.stat(run / "state.pt").st_mtime_ns == before and stopped.poll() is None:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    code, told = end(stopped)
    assert code == 0, told
    assert "stopped by SIGTERM" in told
    stage, epoch, step = stage_and_step(run)
    assert stage == "quantized"
    assert (epoch, step) > (1, 9)

    # A full disk: one sentence, and what was written before is whole.
    before_it = (run / "state.pt").read_bytes()
    code, told = end(start(run, limit=few_bytes))
    assert code == 2, told
    assert "qffs: the state of the run could not be written: File too large; the last one, in " in told
    assert "Traceback" not in told
    assert (run / "state.pt").read_bytes() == before_it

    code, told = end(start(run))
    assert code == 0, told
    assert weights(run) == weights(whole)
    assert (run / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert not (run / "state.pt").exists()
    assert not list(run.glob(".*"))


def test_a_signal_before_anything_was_done_is_no_fault(tmp_path: Path) -> None:
    asked = "import os, signal, sys\nclass Asked:\n    def find_spec(name, *_):\n"
    asked += "        if name == 'torch': os.kill(os.getpid(), signal.SIGTERM)\n"
    asked += "sys.meta_path.insert(0, Asked)\nfrom qffs.cli import main\nmain()\n"
    code, told = end(start(tmp_path / "run", "-c", asked))
    assert (code, told) == (0, "qffs: stopped by SIGTERM before anything was done\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_saves_too(tmp_path: Path) -> None:
    """As ``torchrun`` and batch systems send it: those that read images ahead get it too."""
    command = [sys.executable, "-m", "qffs", "train", "digits", "workers=2", "full_precision.epochs=500", "device=cpu"]
    command += ["--output", str(tmp_path), "--save-every", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "state.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    code, told = end(process)
    assert code == 0, told
    assert "stopped by SIGTERM at full precision, epoch " in told
    assert "Traceback" not in told
