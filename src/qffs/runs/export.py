"""Export of a checkpoint's network to the form of another tool, and its way to the Hugging Face Hub and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qffs.errors import CheckpointError, InvalidArgument
from qffs.export import TARGETS
from qffs.export.hub import pull as pull_from_hub
from qffs.export.hub import push as push_to_hub
from qffs.export.target import Network, Target
from qffs.files import Results, check_replaceable
from qffs.models.checkpoint import kind_of
from qffs.models.load import load
from qffs.models.trained import card, is_name
from qffs.progress import wait
from qffs.runs.measure import Trial
from qffs.runs.outputs import check_owner
from qffs.runs.stored import read_results
from qffs.spiking.network import SpikingNetwork

IMAGES = 100
"""The default number of test images that a target gets."""


def export(
    checkpoint: Path,
    to: str,
    output: Path,
    *,
    steps: int | None = None,
    profile: str | None = None,
    data: str | None = None,
    size: int | None = None,
    images: int | None = None,
    progress: bool = True,
) -> Results:
    """Write the network of a checkpoint in the form of a target, one of `qffs.export.TARGETS`.

    steps: T, for targets that take it; profile: the tool that will read a NIR file; data, size, images: test images, as
    for `Trial`, for targets that store examples or measure a loss, by default `IMAGES` of them. The card of a hub
    folder shows the results of the run that wrote the checkpoint. Returns the fields of `qffs.export.target.Written`.

    Raises `InvalidArgument` if there is no such target, or if it does not take the network or one of the options.
    """
    if to not in TARGETS:
        raise InvalidArgument(f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    target, loaded = TARGETS[to], load(checkpoint)
    network = loaded.network
    assert isinstance(network, SpikingNetwork | fx.GraphModule)
    target.check(network)
    options = {name: value for name, value in {"steps": steps, "profile": profile}.items() if value is not None}
    for name in [*options, *(["inputs"] if data is not None else [])]:
        if name not in target.takes:
            raise InvalidArgument(f"{to} takes no --{name.replace('inputs', 'data')}: leave it out")
    if data is None and (size, images) != (None, None):
        raise InvalidArgument("--size and --images choose from --data: name --data too")
    _check_output(target, output, checkpoint)
    arguments: dict[str, Any] = {"about": loaded.about, "results": _results(checkpoint, network), "progress": progress}
    if data is not None:
        trial = Trial(checkpoint, data=data, size=size, images=images, device="cpu", progress=progress)
        arguments |= _labeled_inputs(trial)
    accepted = {name: value for name, value in (options | arguments).items() if name in target.takes}
    with wait(f"writing {to}", show=progress and "progress" not in accepted):  # a target with progress shows a bar
        written = target.write(network, output, **accepted)
    return dataclasses.asdict(written) | {"path": str(written.path)}


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder of the target hub to the Hugging Face Hub, as `qffs.export.push` does; return its address."""
    return push_to_hub(folder, repository, private=private)


def pull(repository: str, folder: Path, revision: str | None = None) -> str:
    """Download a network as `qffs.export.pull` does, and return its kind; the folder must not belong to a run."""
    check_owner(folder)
    return pull_from_hub(repository, folder, revision).kind


def _check_output(target: Target, output: Path, checkpoint: Path) -> None:
    """Raise `InvalidArgument` if a file would replace a folder, a folder a file, or the output a part of a network."""
    if output.is_dir() != target.folder and output.exists():
        kind = "a folder" if target.folder else "a file"
        raise InvalidArgument(f"{target.name} writes {kind}, but {output} is not {kind}: name another output")
    if output.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"{output} is the checkpoint itself: name another output")
    if checkpoint.resolve() in output.resolve().parents:
        raise InvalidArgument(f"{output} lies inside the checkpoint {checkpoint}: name another output")
    check_owner(output)
    if not target.folder:
        check_replaceable(output, f"a file of qffs export --to {target.name}", *target.marks)


def _labeled_inputs(trial: Trial) -> dict[str, Tensor]:
    """Return test images as ``inputs`` of a network, and their ``labels``."""
    evaluation = trial.load()
    images = evaluation.images
    if trial.images is None and len(images) > IMAGES:
        images = images.select(torch.linspace(0, len(images) - 1, IMAGES).long())
    return {"inputs": evaluation.normalize(images.read(torch.arange(len(images)))), "labels": images.labels}


def _results(checkpoint: Path, network: Network) -> Results | None:
    """Return the results in the folder of the run that wrote a checkpoint; None if they are not of this network."""
    try:
        named = is_name(checkpoint)
        path = checkpoint.absolute().parent / "results.json"
        results = card(str(checkpoint))["results"] if named else read_results(path)
    except CheckpointError:
        return None
    complete = {"full_precision", "qann", "charge_schedule"} <= results.keys()
    same = not isinstance(network, SpikingNetwork) or list(network.schedule.weights) == results.get("charge_schedule")
    return results if complete and same and (named or checkpoint.name == kind_of(network)) else None
