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

from processes.failing import failing
from qffs.errors import InvalidArgument, Stopped
from qffs.recipes import read
from qffs.recipes.recipe import Recipe
from qffs.runs import parallel
from qffs.runs.parallel import train_all
from qffs.train.state import Interruption

ROUND = {"epochs": 1, "learning_rate": 0.03, "batch_size": 64}
SAID: dict[str, Any] = {
    "full_precision": ROUND,
    "quantized": ROUND,
    "model_arguments": {"width": 4},
    "steps": 8,
    "device": "cpu",
    "test_images": 50,
}


def recipes(folder: Path, **more: Any) -> dict[Path, Recipe]:
    return {folder / f"{bits}": Recipe.of(SAID | {"bits": bits} | more) for bits in (1, 2, 3)}


def results_of(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_runs_at_once_are_those_alone_with_as_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what a process would begin with
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_all(recipes(tmp_path / "beside"), jobs=2, progress=False)
        (only,) = list(recipes(tmp_path / "one").items())[:1]
        train_all(dict([only]), jobs=2, progress=False)
        torch.set_num_threads(1)  # the half, which each of the two had
        train_all(recipes(tmp_path / "alone"), jobs=1, progress=False)
    finally:
        torch.set_num_threads(threads)
    for bits in ("1", "2", "3"):
        assert results_of(tmp_path / "beside" / bits) == results_of(tmp_path / "alone" / bits)
    assert results_of(tmp_path / "one" / "1") == results_of(tmp_path / "alone" / "1")
    assert {json.loads(path.read_text())["threads"] for path in tmp_path.glob("*/*/run.json")} == {1}


@pytest.mark.slow
def test_runs_that_have_ended_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parallel.train_all({tmp_path: Recipe.of(SAID)}, progress=False)
    monkeypatch.setattr("qffs.runs.train.fit", lambda *_, **__: pytest.fail("trained again"))
    parallel.train_all({tmp_path: Recipe.of(SAID)}, progress=False)
    parallel.train_all({})
    with pytest.raises(InvalidArgument, match="the run of another recipe: it differs in bits"):
        parallel.train_all({tmp_path: Recipe.of(SAID | {"bits": 3})}, progress=False)


@pytest.mark.slow
def test_the_fault_of_one_is_told(tmp_path: Path) -> None:
    wrong = {tmp_path / "wrong": Recipe.of(SAID | {"model": "no_such_network"})} | recipes(tmp_path)
    with pytest.raises(InvalidArgument, match="no_such_network"):
        train_all(wrong, jobs=2, progress=False)
    assert not (tmp_path / "3").exists()


@pytest.mark.parametrize("number", [0, -1])
def test_at_least_one_goes_on(number: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"the number of jobs must be at least 1, not {number}"):
        train_all(recipes(tmp_path), jobs=number)


def test_how_many_pay_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert parallel.at_once("cpu") == 4
    monkeypatch.setattr(parallel, "processors", lambda: 9)  # of a container's quota, say
    assert parallel.at_once("cpu") == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert parallel.at_once("cpu") == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parallel.at_once("auto") == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parallel.at_once("cpu") == 1


PROGRAM = """
import sys
from pathlib import Path
from qffs.recipes import read
from qffs.runs.parallel import train_all
if __name__ == "__main__":
    recipe = read("digits", ["device=cpu", "model_arguments.width=4", "test_images=50", *sys.argv[3:]])
    train_all({Path(name): recipe for name in sys.argv[1:3]}, jobs=2, progress=False)
"""
LONG = ("full_precision.epochs=2", "full_precision.warmup_epochs=0", "quantized.epochs=15")


def begun(folder: Path, *said: str) -> subprocess.Popen[str]:
    """A program that trains two networks in this folder, both of which have saved a state by now."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), *(str(folder / name) for name in "ab"), *said]
    found = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    waiting_until = time.monotonic() + 120
    while not all((folder / name / "state.pt").exists() for name in "ab"):
        assert found.poll() is None, found.communicate()[1]
        assert time.monotonic() < waiting_until
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_all_are_stopped_and_go_on_as_if_they_had_not_been(asked: signal.Signals, tmp_path: Path) -> None:
    with begun(tmp_path, *LONG) as program:
        os.kill(program.pid, asked)
        _, said = program.communicate(timeout=60)
    assert f"Stopped: stopped by {asked.name}; the same command continues" in said
    assert not any((tmp_path / name / "results.json").exists() for name in "ab")
    if asked is signal.SIGINT:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recipe = read("digits", ["device=cpu", "model_arguments.width=4", "test_images=50", *LONG])
        train_all({tmp_path / name: recipe for name in "abc"}, jobs=2, progress=False)
    finally:
        torch.set_num_threads(threads)
    assert results_of(tmp_path / "a") == results_of(tmp_path / "b") == results_of(tmp_path / "c")


@pytest.mark.slow
def test_nothing_trains_on_where_the_program_is_killed(tmp_path: Path) -> None:
    with begun(tmp_path, "quantized.epochs=500") as program:
        program.kill()
    states = [tmp_path / name / "state.pt" for name in "ab"]
    before, same = None, 0
    for _ in range(300):  # until nothing is written any more
        now = [path.stat().st_mtime_ns for path in states]
        same = same + 1 if now == before else 0
        if same == 20:
            break
        before = now
        time.sleep(0.1)
    running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert same == 20, running


@pytest.mark.parametrize(
    ("kill", "sentence"),
    [(True, "trained long was ended by SIGKILL, .*try fewer jobs at once"), (False, "ended with exit code 3; its mes")],
)
def test_a_process_that_ends_is_told_of(
    kill: bool, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kill:
        monkeypatch.setattr(parallel, "_run", failing)
    with parallel._Processes(1, Interruption()) as processes:
        processes.start(tmp_path / "long", Recipe.of(SAID | {"full_precision": ROUND | {"epochs": 500}}))
        ((process, _),) = processes.running.values()
        if kill:
            process.kill()
        with pytest.raises(InvalidArgument, match=sentence):
            processes.next_ended()


def test_a_stop_comes_whole_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "stopped by SIGTERM")))
    assert (error.signal, str(error)) == (signal.SIGTERM, "stopped by SIGTERM")
