"""Networks in folders: ``model.safetensors`` with the weights, ``config.json`` with everything else.

Loading executes no code of the file: the weights are plain tensors and the network is described as data, from
which only operators of the library's own table are built. Saving is atomic: a folder is complete or not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError
from qffs.graph.describe import describe, rebuild
from qffs.graph.rules import Kind
from qffs.levels import Schedule
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.version import __version__

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the ``network`` in eval mode, and ``about``, what was saved beside it.

    ``network`` is a `SpikingNetwork` where kind is "snn", else a graph module: "qann" or "float".
    """

    kind: str
    network: nn.Module
    about: dict[str, Any] = field(default_factory=dict)


def save(network: fx.GraphModule | SpikingNetwork, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write a network that `quantize`, `to_spiking` or `trace` returned to ``folder`` and return the folder.

    about: anything JSON can hold, given back by `load`. An earlier checkpoint in the folder is replaced only when the
    new one is complete; a folder that holds anything else is not touched. What the network's graph never calls is
    not written. Raises `CheckpointError`.
    """
    if not isinstance(network, SpikingNetwork | fx.GraphModule):
        raise CheckpointError(f"save takes what quantize or to_spiking returned, not a {type(network).__name__}")
    check_folder(folder)
    graph = network.graph if isinstance(network, SpikingNetwork) else network
    description = describe(graph)
    tensors = _needed(graph.state_dict(), description)
    config = {
        "format": FORMAT,
        "qffs": __version__,
        "kind": kind_of(network),
        "schedule": list(network.schedule.weights) if isinstance(network, SpikingNetwork) else None,
        "network": description,
    }
    try:
        text = json.dumps(config | {"about": dict(about or {})}, indent=1)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"what is to be saved beside the network does not fit into JSON: {error}") from error
    _assemble(json.loads(text), tensors, str(folder))  # what could not be loaded is not written
    _replace(Path(folder).resolve(), text, tensors)
    return Path(folder)


def _needed(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors that a description speaks of: those of its modules, and its constants."""
    constants = {node["target"] for node in description["nodes"] if node["op"] == "get_attr"}
    return {
        name: tensor.detach().contiguous().clone()
        for name, tensor in tensors.items()
        if name in constants or name.rpartition(".")[0] in description["modules"]
    }


def _path(path: str | Path) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise CheckpointError(f"{path!r} is no path of a file or folder") from None


def check_folder(folder: str | Path) -> None:
    """Raise `CheckpointError` where `save` cannot write: beside this folder, or over what it holds."""
    folder = _path(folder)
    try:
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise CheckpointError(f"{folder} cannot be written: {above} is no folder that may be written to")
        if folder.exists() and (not folder.is_dir() or not _replaceable(folder)):
            raise CheckpointError(
                f"{folder} exists and holds something else than a checkpoint of qffs: nothing was written; "
                "name another folder"
            )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty or holds a checkpoint of this library, of any format, and nothing more."""
    names = {path.name for path in folder.iterdir()}
    if not names or not names <= {CONFIG, WEIGHTS}:
        return not names
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "qffs" in config


def _replace(folder: Path, text: str, tensors: dict[str, Tensor]) -> None:
    """Write both files beside the folder, then put them in its place."""
    fresh, old = _beside(folder, "new"), _beside(folder, "old")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        save_file(tensors, fresh / WEIGHTS)
        for path in (fresh / CONFIG, fresh / WEIGHTS):
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
        _swap(fresh, folder, old)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint could not be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # after a success they are not empty
                parent.rmdir()
    shutil.rmtree(old, ignore_errors=True)


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # should the machine stop here, `load` finds the old checkpoint
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def kind_of(network: nn.Module) -> str:
    """What a network is: "snn", "qann" or "float"."""
    if isinstance(network, SpikingNetwork):
        return "snn"
    return "qann" if any(isinstance(module, Quantizer) for module in network.modules()) else "float"


def load(folder: str | Path) -> Checkpoint:
    """The checkpoint of a folder that `save` wrote; raises `CheckpointError` where it is missing or damaged."""
    folder = _path(folder)
    try:
        old = _beside(folder.resolve(), "old")
        found = old if not folder.exists() and old.exists() else folder
        config, tensors = _read_config(found), read_weights(found / WEIGHTS)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    network = _assemble(config, tensors, str(found))
    return Checkpoint(config["kind"], network.eval(), config["about"])


def _assemble(config: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network of a configuration with its weights, of the kind the configuration says."""
    graph = rebuild(config["network"], tensors)
    own = graph.state_dict()
    _refuse(_misfits(own, tensors), source)
    graph.load_state_dict(dict(tensors), assign=True)
    kinds = {type(module) for module in graph.modules()}
    if config["kind"] != "snn":
        if kind_of(graph) != config["kind"] or Neuron in kinds:
            raise CheckpointError(f"{source} is damaged: its network is not of kind {config['kind']!r}")
        return graph
    try:
        network = SpikingNetwork(graph.requires_grad_(False), Schedule(tuple(config["schedule"])))
    except Exception as error:  # what others wrote can be wrong in nearly any way
        raise CheckpointError(f"{source} is damaged: {error}") from error
    kinds_of_node = {node.meta["kind"] for node in graph.graph.nodes}
    if Neuron not in kinds or kinds & {Quantizer, nn.ReLU} or kinds_of_node & {Kind.FOLDED, Kind.REFUSED}:
        raise CheckpointError(f"{source} is damaged: its network is not of kind 'snn'")
    return network


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    keys = {"format", "kind", "schedule", "network", "about"}
    lacking = sorted(keys - set(config)) if isinstance(config, dict) else sorted(keys)
    if lacking:
        raise CheckpointError(f"{path} is not a checkpoint of qffs: it lacks {', '.join(lacking)}")
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {config['format']!r}, but qffs {__version__} reads format {FORMAT}: "
            "use the version of qffs that wrote it"
        )
    if config["kind"] not in ("float", "qann", "snn") or not isinstance(config["about"], dict):
        raise CheckpointError(f"{path} is damaged: unknown kind {config['kind']!r}, or no notes beside the network")
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a checkpoint folder, by name.

    Raises `CheckpointError` where it is missing, half-written or of another kind.
    """
    path = _path(path)
    try:
        path = path / WEIGHTS if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}")
        if path.suffix in {".pt", ".pth"}:
            raise CheckpointError(
                f"{path} is no safetensors file: write one with "
                "safetensors.torch.save_file(torch.load(path, weights_only=True), name)"
            )
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from error


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load trained weights into a network, all or nothing.

    Raises `CheckpointError` with the first three names or shapes that do not fit, or where a weight is NaN or
    infinite; ``source`` is how it calls the file.
    """
    own = network.state_dict()
    # Batch norm's counter of batches came later than many weight files, and matters to nobody who converts.
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in tensors}
    tensors = {**tensors, **counters}
    _refuse(_misfits(own, tensors), source)
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{source} holds NaN or infinity in {', '.join(broken[:3])}")
    network.load_state_dict(tensors)


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from taking the place of a network's own, one phrase each."""
    problems = [f"{name} is missing in the file" for name in own if name not in tensors]
    problems += [f"{name} is not in the network" for name in tensors if name not in own]
    both = [(name, tensors[name], own[name]) for name in own if name in tensors]
    problems += [
        f"{name} has shape {tuple(there.shape)} in the file and {tuple(here.shape)} in the network"
        for name, there, here in both
        if there.shape != here.shape
    ]
    problems += [
        f"{name} is of type {there.dtype} in the file and {here.dtype} in the network"
        for name, there, here in both
        if there.is_floating_point() != here.is_floating_point()
    ]
    return problems


def _refuse(problems: list[str], source: str) -> None:
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights of {source} do not fit the network: {'; '.join(problems[:3])}{more}")
