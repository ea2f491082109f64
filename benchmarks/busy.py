"""Measure the seconds of training the digits, alone on a machine and beside a process that never waits.

    python benchmarks/busy.py --epochs 15 --turns 3 --json busy.json

There are two settings: OpenMP as ``qffs`` sets it, and two threads that spin while they wait for each other, which is
PyTorch's default on two processors. A turn runs each setting alone, and then each beside a process that computes
without end; every run is a new process. Times are of the whole command: imports, compiler, two trainings (full
precision, then quantized), simulation. By default each training has one epoch. The other load of the machine changes
the figures: ``load`` is the number of processes that were ready to run in the last minute, at the beginning and at the
end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import processor
from rich.console import Console
from rich.table import Table

from qffs.progress import track
from qffs.runs.processors import LIMITED, THREADS, WAITING, processors

SETTINGS: dict[str, dict[str, str]] = {
    "as qffs sets it": {},
    "two threads that spin": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},  # GNU OpenMP's default
}
PLACES = ("alone", "beside one process")


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Run this many processes that compute until the block ends."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(setting: dict[str, str], epochs: int) -> float:
    """Return the seconds of one training, with these variables in the environment."""
    environment = {name: text for name, text in os.environ.items() if name not in (*THREADS, *WAITING, LIMITED)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "qffs", "train", "digits", "--output", folder]
        command += [f"full_precision.epochs={epochs}", f"quantized.epochs={epochs}"]
        start = time.perf_counter()
        subprocess.run(command, env=environment | setting, check=True, capture_output=True)
        return time.perf_counter() - start


def measure(epochs: int, turns: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each turn, by setting and by place."""
    times: dict[str, dict[str, list[float]]] = {name: {place: [] for place in PLACES} for name in SETTINGS}
    with track("time", turns * len(SETTINGS) * len(PLACES), "runs") as bar:
        for turn in range(turns):
            for count, place in enumerate(PLACES):
                with beside(count):
                    for name in list(SETTINGS)[:: 1 if turn % 2 == 0 else -1]:
                        times[name][place].append(seconds(SETTINGS[name], epochs))
                        bar.advance(note=f"{name}, {place}")
    return times


def show(times: dict[str, dict[str, list[float]]], title: str) -> None:
    table = Table(title=title, caption="seconds: median (least to most of the turns)")
    table.add_column("threads")
    for place in PLACES:
        table.add_column(place, justify="right")
    for name, places in times.items():
        cells = [f"{statistics.median(all_):.1f} ({min(all_):.1f} to {max(all_):.1f})" for all_ in places.values()]
        table.add_row(name, *cells)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of training the digits, alone and beside another process.")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each of the two trainings; the recipe has 15")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all results to this file")
    arguments = parser.parse_args()
    load = [round(os.getloadavg()[0], 1)]
    times = measure(arguments.epochs, arguments.turns)
    load.append(round(os.getloadavg()[0], 1))
    title = f"{arguments.epochs} + {arguments.epochs} epochs, {processors()} processors, {processor()}, load {load}"
    show(times, title)
    if arguments.json:
        about = {"command": " ".join(["python", *sys.argv]), "device": processor(), "processors": processors()}
        about |= {"epochs": arguments.epochs, "load": load, "seconds": times}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
