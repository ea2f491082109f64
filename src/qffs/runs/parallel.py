"""Parallel runs: several recipes are trained at once, each in its own process."""

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
"""PyTorch's threads per run; more threads make the small networks of such studies hardly faster."""


def at_once(device: str) -> int:
    """Return how many runs to train at once: one per `CORES_A_RUN` of PyTorch's threads, and one on a GPU.

    There are at most as many threads as `processors`. Processes that ``torchrun`` started share one run.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or device_of(device).type != "cpu":
        return 1
    return max(1, _threads() // CORES_A_RUN)


def _threads() -> int:
    """Return PyTorch's number of threads, or that of the processors that this process may use, if less."""
    return min(torch.get_num_threads(), processors())


def train_all(recipes: Mapping[Path, Recipe], *, jobs: int | None = None, progress: bool = True) -> None:
    """Train each recipe in its folder, or continue the run there; a run that has ended is not repeated.

    ``jobs``: how many runs at once, by default `at_once`; each has its own process, which uses an equal share of this
    process's threads. With 1 they are trained in this process, one after the other. The same recipe with the same
    number of jobs writes the same results; a single run with as many threads writes them too.

    Raises the error of the first run that fails, and `Stopped` after SIGTERM or SIGINT. The other runs are then
    stopped, and their states saved.
    """
    if jobs is not None and jobs < 1:
        raise InvalidArgument(f"the number of jobs must be at least 1, not {jobs}")
    missing = {}
    for folder, recipe in recipes.items():
        if (folder / "results.json").exists():
            train(recipe, folder, resume=True, progress=False)  # raises if the run there is of another recipe
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
        Interruption("; the same command continues").watching() as interruption,
        track("training", len(missing), "networks", show=progress) as bar,
        _Processes(max(1, _threads() // together), interruption) as processes,
    ):
        for folder, recipe in missing.items():
            if len(processes.running) == together:
                bar.advance(note=processes.next_ended().name)
            processes.start(folder, recipe)
        while processes.running:
            bar.advance(note=processes.next_ended().name)


class _Processes:
    """Processes that each train one run with some threads; those still running when the block ends are terminated.

    They are no pool, because a pool may wait forever for a process that was terminated.
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

    def start(self, folder: Path, recipe: Recipe) -> None:
        """Start a run; a signal to stop is deferred until the run is listed in ``running``."""
        context = get_context("spawn")  # a fork would copy PyTorch's state without its threads
        with self.interruption.deferred():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(sender, self.threads, folder, recipe))
            process.start()
            self.running[receiver] = process, folder
            sender.close()

    def next_ended(self) -> Path:
        """Wait until a run ends and return its folder; raise the run's error if it failed."""
        ready = cast(Connection, wait(self.running)[0])
        process, folder = self.running.pop(ready)
        try:
            error = ready.recv()
        except EOFError:
            process.join()
            error = InvalidArgument(f"the process that trained {folder.name} {_reason(process.exitcode)}")
        process.join()
        if error is not None:
            raise error
        return folder


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {Signals(-code).name}, as happens when memory runs out: try fewer jobs at once"
    return (
        f"ended with exit code {code}; its messages are above. A script that trains several runs at once needs "
        'if __name__ == "__main__": around its work'
    )


def _run(sender: Connection, threads: int, folder: Path, recipe: Recipe) -> None:
    """Train one run in this process, and send the `QffsError` that it raised, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but the parent process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    failure = None
    try:
        train(recipe, folder, resume=True, progress=False)
    except QffsError as error:
        failure = error
    with suppress(BrokenPipeError):  # the parent process may have ended
        sender.send(failure)


def _end_with_parent() -> None:
    """Stop this process, which saves its state, when its parent process has ended."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
