"""The five floors of the house: their rooms in order, and the check that a room imports only rooms before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.house.imports import files, imports, room_of


class Room(NamedTuple):
    """A module or a folder directly under ``src/qffs``, and its contents."""

    name: str
    what: str


class Floor(NamedTuple):
    """Rooms that speak of one thing, in the order in which they may import each other."""

    name: str
    rooms: tuple[Room, ...]


FLOORS = (
    Floor(
        "numbers",
        (
            Room("errors", "the tree of errors"),
            Room("version", "the version of the library"),
            Room("progress", "progress bars and notices on standard error"),
            Room("method", "levels, the charge schedule, the firing rule, bits by pattern; no torch"),
            Room("files", "files and folders that are written whole or not at all"),
        ),
    ),
    Floor(
        "functions",
        (
            Room("functional", "the equations as functions on tensors: LSQ, one step of a neuron, differences"),
            Room("kernels", "the same functions, compiled for CPU and GPU"),
            Room("nn", "thin modules: parameters and one call of a function"),
        ),
    ),
    Floor(
        "graph",
        (Room("graph", "a model as a graph of operators: trace, classify, plan, replace, fold"),),
    ),
    Floor(
        "spiking network",
        (
            Room("spiking", "the spiking network and its simulations: step by step, layer by layer, as a stream"),
            Room("convert", "plan, quantize, to_spiking"),
            Room("verification", "the proof that the two networks compute the same"),
        ),
    ),
    Floor(
        "applications",
        (
            Room("data", "data sets, augmentation"),
            Room("models", "networks of our own and by name, checkpoints, weights"),
            Room("recipes", "training runs as data"),
            Room("train", "training in one process and in several; calibration and reconstruction"),
            Room("measurement", "accuracy by step, agreement, spikes, noise, energy; the choice of bits"),
            Room("export", "files for other simulators and runtimes"),
            Room("report", "tables, plots, the page of a run"),
            Room("runs", "whole runs, from files to files"),
            Room("studies", "comparisons with other methods, the paper's tables and figures"),
            Room("cli", "the commands: short functions that call the rooms above"),
            Room("__main__", "`python -m qffs`"),
            Room("__init__", "the public names"),
        ),
    ),
)
"""A room imports only rooms that stand before it, so there can be no circle of rooms."""

ORDER = [room.name for floor in FLOORS for room in floor.rooms]


def faults(source: Path) -> list[str]:
    """Return a line for each room without a place in `FLOORS` and for each import of a room that stands later."""
    return [fault for path in files(source).values() for fault in _faults_of(path, source)]


def _faults_of(path: Path, source: Path) -> Iterator[str]:
    shown = path.relative_to(source.parents[1]).as_posix()
    room = room_of(("qffs", *path.relative_to(source).with_suffix("").parts))
    if room not in ORDER:
        yield f"{shown}: `{room}` has no floor: give it a place in FLOORS of tests/helpers/house/floors.py"
        return
    for each in imports(path, source):
        if each.room != room and each.room in ORDER and ORDER.index(each.room) > ORDER.index(room):
            yield f"{shown}:{each.line}: `{each.text}`: `{each.room}` stands after `{room}`, {_floors(room, each.room)}"


def _floors(*rooms: str) -> str:
    """Return the floors of rooms in words."""
    first, second = (next(floor.name for floor in FLOORS if room in dict(floor.rooms)) for room in rooms)
    return f"both on the floor of {first}" if first == second else f"on the floor of {second}, above {first}"


def unused(source: Path) -> list[str]:
    """Return the rooms of `FLOORS` that the package does not have."""
    return [name for name in ORDER if not (source / name).is_dir() and not (source / f"{name}.py").is_file()]


def table(source: Path) -> str:
    """Return the floors as a table in Markdown."""
    rows = ["| floor | room | contents |", "|---|---|---|"]
    for number, floor in enumerate(FLOORS, 1):
        for place, room in enumerate(floor.rooms):
            name = f"{room.name}/" if (source / room.name).is_dir() else room.name
            rows.append(f"| {f'{number} {floor.name}' if place == 0 else ''} | `{name}` | {room.what} |")
    return "\n".join(rows) + "\n"
