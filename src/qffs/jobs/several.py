"""Runs beside each other: several recipes trained at once, each by a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import torch

from qffs.errors import InvalidArgument, QffsError
from qffs.jobs.begin import train
from qffs.jobs.start import device_of
from qffs.progress import track
from qffs.recipe import Recipe
from qffs.train import Interruption

CORES_A_RUN = 4
"""More threads than these do little for the small networks that come by the dozen."""


def at_once(device: str) -> int:
    """How many runs pay beside each other: one for every `CORES_A_RUN` threads of a CPU, one on a GPU.

    Processes that ``torchrun`` started share one run.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or device_of(device).type != "cpu":
        return 1
    return max(1, torch.get_num_threads() // CORES_A_RUN)


def train_all(recipes: Mapping[Path, Recipe], *, jobs: int | None = None, progress: bool = True) -> None:
    """`train` each recipe in its folder, or go on there; runs that have ended cost nothing.

    ``jobs``: how many at once, which share the threads of this process; by default as `at_once` says. One alone is
    trained in this process. Raises what the first run that fails raises; the others are stopped then, and their states
    saved.
    """
    if jobs is not None and jobs < 1:
        raise InvalidArgument(f"at least 1 run must go on at once, not {jobs}")
    missing = {folder: recipe for folder, recipe in recipes.items() if not (folder / "results.json").exists()}
    together = min(len(missing), min(jobs or at_once(recipe.device) for recipe in recipes.values()) if recipes else 1)
    if together < 2:
        for folder, recipe in missing.items():
            train(recipe, folder, resume=True, progress=progress)
        return
    with (
        Interruption("; the same command goes on").watching(),
        track("training", len(missing), "networks", show=progress) as bar,
        _Processes(max(1, torch.get_num_threads() // together)) as processes,
    ):
        for number, (folder, recipe) in enumerate(missing.items()):
            if number >= together:
                bar.advance(note=processes.ended().name)
            processes.begin(folder, recipe)
        for _ in range(together):
            bar.advance(note=processes.ended().name)


class _Processes:
    """Runs, each in a process of its own with some threads; those that go on when the block ends are told to end.

    One process a run and not a pool's, which may wait for ever for one that was told to end.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.running: dict[Connection, tuple[BaseProcess, Path]] = {}

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _folder in self.running.values():
            process.terminate()  # a run saves its state then
        for process, _folder in self.running.values():
            process.join()

    def begin(self, folder: Path, recipe: Recipe) -> None:
        """Begin a run."""
        context = get_context("spawn")  # a fork would take half of PyTorch's threads with it
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, self.threads, folder, recipe))
        process.start()
        theirs.close()
        self.running[ours] = process, folder

    def ended(self) -> Path:
        """Wait for a run to end: its folder. Raises what it raised."""
        ready = cast(Connection, wait(self.running)[0])
        process, folder = self.running.pop(ready)
        try:
            error = ready.recv()
        except EOFError:
            error = InvalidArgument(
                f"the process that trained {folder.name} was killed, as happens where memory runs out: "
                "try with fewer at once"
            )
        process.join()
        if error is not None:
            raise error
        return folder


def _run(told: Connection, threads: int, folder: Path, recipe: Recipe) -> None:
    """What a process does: one run; it tells what was raised on purpose, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, but the process that began it decides
    torch.set_num_threads(threads)
    try:
        train(recipe, folder, resume=True, progress=False)
    except QffsError as error:
        told.send(error)
    else:
        told.send(None)
