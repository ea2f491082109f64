"""The job that writes a network in the form of another tool."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from torch import fx

from qffs.checkpoint import kind_of, load
from qffs.errors import InvalidArgument
from qffs.export import HUB, TARGETS, hub
from qffs.export.target import Network
from qffs.network import SpikingNetwork
from qffs.progress import wait
from qffs.report.results import Results


def export(checkpoint: Path, to: str, output: Path, steps: int | None = None, progress: bool = True) -> Results:
    """Write the network of a checkpoint in the form of a target, one of `qffs.export.TARGETS`.

    steps: T of a spiking network, by default 8 and at least twice its charge steps. A hub's card shows the results of
    the run that the checkpoint is of. Returned: what was written, as `qffs.export.target.Written` has it. Raises
    `InvalidArgument` where there is no such target, or it does not take the network.
    """
    if to not in TARGETS:
        raise InvalidArgument(f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    known, loaded = TARGETS[to], load(checkpoint)
    network = loaded.network
    assert isinstance(network, SpikingNetwork | fx.GraphModule)
    known.check(network)
    if known is HUB and steps is not None:
        raise InvalidArgument("a hub folder holds the network itself, whatever its number of steps: leave --steps out")
    if output.is_dir() != known.folder and output.exists():
        wanted = "a folder" if known.folder else "a file"
        raise InvalidArgument(f"{to} writes {wanted}, and {output} is none: name another output")
    if output.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"{output} is the checkpoint itself: name another output")
    with wait(f"writing {to}", show=progress):
        if known is HUB:
            written = hub(network, output, loaded.about, _results(checkpoint, network))
        else:
            written = known.write(network, output, steps)
    return dataclasses.asdict(written) | {"path": str(written.path)}


def _results(checkpoint: Path, network: Network) -> Results | None:
    """The results of the run whose folder a checkpoint is in, where they are its own; None where there are none."""
    try:
        found = json.loads((checkpoint.absolute().parent / "results.json").read_text(encoding="utf-8"))
        figures = [found["full_precision"]["accuracy"], found["qann"]["accuracy"]]
        figures += [figure for row in found["snn"] for figure in (row["accuracy"], row["steps"])]
        whole = all(isinstance(each, int | float) for each in (*figures, found["images"])) and "data" in found
        schedule = found["charge_schedule"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    own = not isinstance(network, SpikingNetwork) or list(network.schedule.weights) == schedule
    return found if whole and own and checkpoint.name == kind_of(network) else None  # a run's are named so
