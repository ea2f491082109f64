"""Checkpoints: folders with the weights of a network in ``model.safetensors`` and everything else in ``config.json``.

Loading runs no code from the files: the weights are plain tensors, and the network is a description, from which only
operators in the table of this library are built. Saving is atomic: the folder is complete, or it does not exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError
from qffs.files import existing, read_text, write_folder
from qffs.graph.rebuild import fill, rebuild
from qffs.graph.serialize import describe, tensors_of
from qffs.graph.site import Kind, site
from qffs.method import Schedule
from qffs.models.weights import WEIGHTS, misfits, path_of, read_safetensors, refuse, refuse_broken
from qffs.nn.copies import with_plain_weights
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.version import __version__

FORMAT = 1
CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, as `load` returns it.

    kind: "snn" for a spiking network, "qann" for a quantized network, "float" for a network in full precision.
    network: the network in eval mode on the CPU: a `SpikingNetwork` for "snn", else a `torch.fx.GraphModule`.
    about: the notes that were saved with the network, ``{}`` without notes.
    """

    kind: str
    network: nn.Module
    about: dict[str, Any] = field(default_factory=dict)


def save(network: fx.GraphModule | SpikingNetwork, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write a network to a folder, and return the path of the folder.

    network: a network that `qffs.quantize`, `qffs.to_spiking` or `qffs.graph.trace.trace` returned.
    folder: the folder to write, created if it does not exist. An earlier checkpoint in it is replaced when the new one
        is complete; a folder with other files is not changed.
    about: notes to save with the network, any values that JSON can represent; `load` returns them.

    Weights that are computed from others (parametrized or pruned) are written as the values that they have now. Writes
    ``model.safetensors`` with the weights and ``config.json`` with the graph, the charge schedule of a spiking
    network, and the notes. Modules that the graph of the network never calls are not written.

    Raises `CheckpointError` if ``network`` is something else, if the folder cannot be written or contains other files,
    if JSON cannot represent the notes, or if the network contains a module or operator that cannot be saved, or NaN or
    infinity in a weight.
    """
    folder = path_of(folder)
    fill = filler(network, about, str(folder))
    check_folder(folder)
    write_folder(folder.resolve(), fill)
    return folder


def filler(
    network: fx.GraphModule | SpikingNetwork, about: Mapping[str, Any] | None, source: str
) -> Callable[[Path], None]:
    """Return the function that writes both files of a checkpoint to an empty folder.

    source: the name of the checkpoint in messages. Raises `CheckpointError` where the network cannot be saved.
    """
    if not isinstance(network, SpikingNetwork | fx.GraphModule):
        raise CheckpointError(f"save takes what quantize or to_spiking returned, not a {type(network).__name__}")
    graph = with_plain_weights(network.graph if isinstance(network, SpikingNetwork) else network)
    description = describe(graph)
    tensors = _needed(tensors_of(graph), description)
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
        raise CheckpointError(f"JSON cannot represent the notes in about: {error}") from error
    _assemble(json.loads(text), tensors, source)  # a network that cannot be loaded is not written

    def fill(fresh: Path) -> None:
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        try:
            save_file(tensors, fresh / WEIGHTS)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    return fill


def _needed(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of the tensors that a description names: those of its modules, and its constants."""
    constants = {node["target"] for node in description["nodes"] if node["op"] == "get_attr"}
    return {
        name: tensor.detach().contiguous().clone()
        for name, tensor in tensors.items()
        if name in constants or _within(name, description["modules"])
    }


def _within(name: str, modules: Mapping[str, Any]) -> bool:
    """Return whether a tensor belongs to one of the modules, or to the output projection inside an attention module."""
    parent = name.rpartition(".")[0]
    whole = modules.get(parent.rpartition(".")[0], {})
    return parent in modules or whole.get("type") == nn.MultiheadAttention.__name__


def check_folder(folder: str | Path, others: frozenset[str] = frozenset()) -> None:
    """Raise `CheckpointError` if `save` cannot write this folder, or must not replace its content.

    others: names of additional files that may be in the folder, and are replaced together with the checkpoint.
    """
    folder = path_of(folder)
    try:
        above = next((parent for parent in folder.absolute().parents if parent.exists()), folder)
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise CheckpointError(f"{folder} cannot be written: {above} is no folder that may be written to")
        if folder.exists() and (not folder.is_dir() or not _replaceable(folder, others)):
            raise CheckpointError(
                f"{folder} exists and holds something else than a checkpoint of qffs: nothing was written; "
                "name another folder"
            )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error


def _replaceable(folder: Path, others: frozenset[str] = frozenset()) -> bool:
    """Return whether a folder is empty, or contains only a checkpoint of this library, in any format, and others."""
    names = {path.name for path in folder.iterdir()}
    if not names or not names <= {CONFIG, WEIGHTS, *others}:
        return not names
    try:
        config = json.loads(read_text(folder / CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "qffs" in config


def kind_of(network: nn.Module) -> str:
    """Return the kind of a network: "snn", "qann" or "float".

    Raises `CheckpointError` on a spiking network with a ``start`` of another method, because its first state is not
    part of the graph.
    """
    if isinstance(network, SpikingNetwork):
        if network.start is not None:
            name = type(network.start).__name__
            raise CheckpointError(
                f"a network that starts by {name} cannot be saved: its start is not part of its graph"
            )
        return "snn"
    return "qann" if any(isinstance(module, Quantizer) for module in network.modules()) else "float"


def load(folder: str | Path) -> Checkpoint:
    """Return the checkpoint in a folder that `save` wrote.

    folder: the folder with ``model.safetensors`` and ``config.json``. No code from the files is run.

    Returns a `Checkpoint`: ``kind``, ``network`` in eval mode on the CPU, and ``about``, the notes. The network
    computes the same as the network that was saved.

    Raises `CheckpointError` if the folder does not exist or cannot be read, if a file is missing or damaged, if a
    weight is NaN or infinite, or if it has the format of another version of qffs.
    """
    folder = path_of(folder)
    try:
        source = folder if folder.exists() else existing(folder.resolve())
        config, tensors = _read_config(source), read_safetensors(source / WEIGHTS)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    network = _assemble(config, tensors, str(source))
    return Checkpoint(config["kind"], network.eval(), config["about"])


def check_kind(loaded: Checkpoint, kind: str, source: str | Path, advice: str) -> None:
    """Raise `CheckpointError` if a checkpoint is not of the kind ``kind``.

    source: its name in the message. advice: the end of the message, which tells the user what to do.
    """
    if loaded.kind != kind:
        raise CheckpointError(f"{source} holds a network of kind {loaded.kind!r}: {advice}")


def _assemble(config: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """Return the network of a configuration with its weights.

    Raises `CheckpointError`, with ``source`` as the name of the files, if the weights do not fit or hold NaN or
    infinity, or if the network is not of the kind in the configuration.
    """
    graph = rebuild(config["network"], tensors)
    refuse(misfits(tensors_of(graph), tensors), source)
    fill(graph, tensors)
    refuse_broken(graph, None, source)
    kinds = {type(module) for module in graph.modules()}
    if config["kind"] != "snn":
        if kind_of(graph) != config["kind"] or Neuron in kinds:
            raise CheckpointError(f"{source} is damaged: its network is not of kind {config['kind']!r}")
        return graph
    try:
        network = SpikingNetwork(graph.requires_grad_(False), Schedule(tuple(config["schedule"])))
    except Exception as error:  # a damaged file can raise nearly any error
        raise CheckpointError(f"{source} is damaged: {error}") from error
    kinds_of_node = {site(node).kind for node in graph.graph.nodes}
    if Neuron not in kinds or kinds & {Quantizer, nn.ReLU} or kinds_of_node & {Kind.FOLDED, Kind.REFUSED}:
        raise CheckpointError(f"{source} is damaged: its network is not of kind 'snn'")
    return network


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    try:
        config: dict[str, Any] = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    keys = {"format", "kind", "schedule", "network", "about"}
    missing = sorted(keys - set(config)) if isinstance(config, dict) else sorted(keys)
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of qffs: it lacks {', '.join(missing)}")
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {config['format']!r}, but qffs {__version__} reads format {FORMAT}: "
            "use the version of qffs that wrote it"
        )
    if config["kind"] not in ("float", "qann", "snn") or not isinstance(config["about"], dict):
        raise CheckpointError(f"{path} is damaged: unknown kind {config['kind']!r}, or its notes are not a dictionary")
    return config
