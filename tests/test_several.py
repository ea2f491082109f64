"""Runs beside each other are the runs they would be alone, and none is lost where one fails or all are stopped."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qffs import jobs
from qffs.errors import InvalidArgument, Stopped
from qffs.jobs import several
from qffs.recipe import Recipe

ROUND = {"epochs": 1, "learning_rate": 0.03, "batch_size": 64}
SAID: dict[str, Any] = {
    "full_precision": ROUND,
    "quantised": ROUND,
    "model_arguments": {"width": 4},
    "steps": 8,
    "device": "cpu",
    "test_images": 50,
}


def recipes(folder: Path, **more: Any) -> dict[Path, Recipe]:
    return {folder / f"{bits}": Recipe.of(SAID | {"bits": bits} | more) for bits in (1, 2, 3)}


def results_of(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_runs_at_once_are_those_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what a process would begin with
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        jobs.train_all(recipes(tmp_path / "beside"), jobs=2, progress=False)
        torch.set_num_threads(1)  # the half, which each of the two had
        jobs.train_all(recipes(tmp_path / "alone"), jobs=1, progress=False)
    finally:
        torch.set_num_threads(threads)
    for bits in ("1", "2", "3"):
        assert results_of(tmp_path / "beside" / bits) == results_of(tmp_path / "alone" / bits)
    assert {json.loads(path.read_text())["threads"] for path in tmp_path.glob("*/*/run.json")} == {1}


def test_runs_that_have_ended_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several.train_all({tmp_path: Recipe.of(SAID)}, progress=False)
    monkeypatch.setattr(several, "train", lambda *_, **__: pytest.fail("trained again"))
    several.train_all({tmp_path: Recipe.of(SAID)}, progress=False)
    several.train_all({})


def test_the_fault_of_one_is_told(tmp_path: Path) -> None:
    wrong = {tmp_path / "wrong": Recipe.of(SAID | {"model": "no_such_network"})} | recipes(tmp_path)
    with pytest.raises(InvalidArgument, match="no_such_network"):
        jobs.train_all(wrong, jobs=2, progress=False)
    assert not (tmp_path / "3").exists()


@pytest.mark.parametrize("number", [0, -1])
def test_at_least_one_goes_on(number: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"at least 1 run must go on at once, not {number}"):
        jobs.train_all(recipes(tmp_path), jobs=number)


def test_how_many_pay_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert several.at_once("cpu") == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert several.at_once("cpu") == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert several.at_once("auto") == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert several.at_once("cpu") == 1


PROGRAM = """
import sys
from pathlib import Path
from qffs import jobs
from qffs.recipes import read
if __name__ == "__main__":
    recipe = read("digits", ["device=cpu", "model_arguments.width=4", *sys.argv[3:]])
    jobs.train_all({Path(name): recipe for name in sys.argv[1:3]}, jobs=2, progress=False)
"""


def test_all_are_stopped_and_none_is_lost(tmp_path: Path) -> None:
    said = ["full_precision.epochs=4", "quantised.epochs=200", "test_images=50"]
    program_file = tmp_path / "program.py"
    program_file.write_text(PROGRAM)
    command = [sys.executable, str(program_file), *(str(tmp_path / name) for name in "ab"), *said]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        states = [tmp_path / name / "state.pt" for name in "ab"]
        waiting_until = time.monotonic() + 120
        while not all(path.exists() for path in states) and time.monotonic() < waiting_until:
            time.sleep(0.1)
        os.kill(program.pid, signal.SIGTERM)
        _, said_last = program.communicate(timeout=60)
    assert "Stopped: stopped by SIGTERM; the same command goes on" in said_last
    assert all(path.exists() for path in states), said_last
    assert not any((tmp_path / name / "results.json").exists() for name in "ab")


def test_a_process_that_is_killed_is_told_of(tmp_path: Path) -> None:
    with several._Processes(1) as processes:
        processes.begin(tmp_path / "long", Recipe.of(SAID | {"full_precision": ROUND | {"epochs": 500}}))
        ((process, _),) = processes.running.values()
        process.kill()
        with pytest.raises(InvalidArgument, match=r"trained long was killed.*try with fewer at once"):
            processes.ended()


def test_a_stop_comes_whole_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "stopped by SIGTERM")))
    assert (error.signal, str(error)) == (signal.SIGTERM, "stopped by SIGTERM")
