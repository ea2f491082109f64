"""Runs beside each other: several recipes trained at once, each by a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import Signals
from typing import cast

import torch

from qffs.errors import InvalidArgument, QffsError
from qffs.progress import track
from qffs.recipes.recipe import Recipe
from qffs.runs.inputs import device_of
from qffs.runs.processors import processors
from qffs.runs.train import train
from qffs.train.state import Interruption

CORES_A_RUN = 4
"""More threads than these do little for the small networks that come by the dozen."""


def at_once(device: str) -> int:
    """How many runs pay beside each other: one for every `CORES_A_RUN` of PyTorch's threads, one on a GPU.

    Threads count as far as there are `processors` for them. Processes that ``torchrun`` started share one run.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or device_of(device).type != "cpu":
        return 1
    return max(1, _threads() // CORES_A_RUN)


def _threads() -> int:
    """Return PyTorch's number of threads, or that of the processors that this process may use, if less."""
    return min(torch.get_num_threads(), processors())


def train_all(recipes: Mapping[Path, Recipe], *, jobs: int | None = None, progress: bool = True) -> None:
    """`train` each recipe in its folder, or go on there; runs that have ended cost nothing.

    ``jobs``: how many at once, by default as `at_once` says; each in a process of its own, which takes its share of the
    threads of this one. With 1 they are trained in this process, one after the other. The same recipe with the same
    number of jobs writes the same results, and as a run alone with so many threads. Raises what the first run that
    fails raises, and `Stopped` after SIGTERM or SIGINT; the others are stopped then, and their states saved.
    """
    if jobs is not None and jobs < 1:
        raise InvalidArgument(f"at least 1 run must go on at once, not {jobs}")
    missing = {}
    for folder, recipe in recipes.items():
        if (folder / "results.json").exists():
            train(recipe, folder, resume=True, progress=False)  # refuses the run of another recipe
        else:
            missing[folder] = recipe
    if not missing:
        return
    together = jobs or min(at_once(recipe.device) for recipe in missing.values())
    if together == 1:
        for folder, recipe in missing.items():
            train(recipe, folder, resume=True, progress=progress)
        return
    with (
        Interruption("; the same command goes on").watching() as interruption,
        track("training", len(missing), "networks", show=progress) as bar,
        _Processes(max(1, _threads() // together), interruption) as processes,
    ):
        for folder, recipe in missing.items():
            if len(processes.running) == together:
                bar.advance(note=processes.ended().name)
            processes.begin(folder, recipe)
        while processes.running:
            bar.advance(note=processes.ended().name)


class _Processes:
    """Runs, each in a process of its own with some threads; those that go on when the block ends are told to end.

    One process a run and not a pool's, which may wait for ever for one that was told to end.
    """

    def __init__(self, threads: int, interruption: Interruption) -> None:
        self.threads, self.interruption = threads, interruption
        self.running: dict[Connection, tuple[BaseProcess, Path]] = {}

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        with self.interruption.deferred():
            for process, _folder in self.running.values():
                process.terminate()  # a run saves its state then
            for process, _folder in self.running.values():
                process.join()

    def begin(self, folder: Path, recipe: Recipe) -> None:
        """Begin a run; a signal to stop waits until it is known of."""
        context = get_context("spawn")  # a fork would take half of PyTorch's threads with it
        with self.interruption.deferred():
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(theirs, self.threads, folder, recipe))
            process.start()
            self.running[ours] = process, folder
            theirs.close()

    def ended(self) -> Path:
        """Wait for a run to end: its folder. Raises what it raised."""
        ready = cast(Connection, wait(self.running)[0])
        process, folder = self.running.pop(ready)
        try:
            error = ready.recv()
        except EOFError:
            process.join()
            error = InvalidArgument(f"the process that trained {folder.name} {_end(process.exitcode)}")
        process.join()
        if error is not None:
            raise error
        return folder


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {Signals(-code).name}, as happens where memory runs out: try with fewer at once"
    return (
        f"ended with exit code {code}; what it said is above. A script that trains so needs its own work below "
        'if __name__ == "__main__":'
    )


def _run(answer: Connection, threads: int, folder: Path, recipe: Recipe) -> None:
    """What a process does: one run; it tells what was raised on purpose, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, but the process that began it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    failure = None
    try:
        train(recipe, folder, resume=True, progress=False)
    except QffsError as error:
        failure = error
    with suppress(BrokenPipeError):  # where there is nobody left to tell
        answer.send(failure)


def _end_with_parent() -> None:
    """Stop, the state saved, where the process that began this one is no more."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
