"""The job that writes a network in the form of another tool."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qffs.models.checkpoint import kind_of, load
from qffs.errors import InvalidArgument
from qffs.export import TARGETS
from qffs.export.target import Network
from qffs.runs.measure import Trial
from qffs.spiking.network import SpikingNetwork
from qffs.progress import wait
from qffs.files import Results

IMAGES = 100
"""How many test images a target is given where nobody says."""


def export(
    checkpoint: Path,
    to: str,
    output: Path,
    steps: int | None = None,
    profile: str | None = None,
    data: str | None = None,
    size: int | None = None,
    images: int | None = None,
    progress: bool = True,
) -> Results:
    """Write the network of a checkpoint in the form of a target, one of `qffs.export.TARGETS`.

    steps: T, where the target takes it; profile: of NIR, for which tool; data, size, images: test images for those that
    keep examples or measure a loss, as `Trial` takes them, `IMAGES` of them by default. A hub's card shows the results
    of the run that the checkpoint is of. Returned: what was written, as `qffs.export.target.Written` has it. Raises
    `InvalidArgument` where there is no such target, or it does not take the network or one of the options.
    """
    if to not in TARGETS:
        raise InvalidArgument(f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    known, loaded = TARGETS[to], load(checkpoint)
    network = loaded.network
    assert isinstance(network, SpikingNetwork | fx.GraphModule)
    known.check(network)
    asked = {name: value for name, value in {"steps": steps, "profile": profile}.items() if value is not None}
    for name in [*asked, *(["inputs"] if data is not None else [])]:
        if name not in known.takes:
            raise InvalidArgument(f"{to} takes no --{name.replace('inputs', 'data')}: leave it out")
    if data is None and (size, images) != (None, None):
        raise InvalidArgument("--size and --images say which of the --data: name these too")
    if output.is_dir() != known.folder and output.exists():
        wanted = "a folder" if known.folder else "a file"
        raise InvalidArgument(f"{to} writes {wanted}, and {output} is none: name another output")
    if output.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"{output} is the checkpoint itself: name another output")
    given: dict[str, Any] = {"about": loaded.about, "results": _results(checkpoint, network), "progress": progress}
    if data is not None:
        given |= _images(Trial(checkpoint, data, size, None, images, device="cpu", progress=progress))
    taken = {name: value for name, value in (asked | given).items() if name in known.takes}
    with wait(f"writing {to}", show=progress and "progress" not in taken):  # those have a bar of their own
        written = known.write(network, output, **taken)
    return dataclasses.asdict(written) | {"path": str(written.path)}


def _images(trial: Trial) -> dict[str, Tensor]:
    """Test images as a network's inputs, and their labels."""
    ready = trial.prepare()
    chosen = ready.images
    if trial.images is None and len(chosen) > IMAGES:
        chosen = chosen.select(torch.linspace(0, len(chosen) - 1, IMAGES).long())
    return {"inputs": ready.normalize(chosen.read(torch.arange(len(chosen)))), "labels": chosen.labels}


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
