"""Networks in folders: ``model.safetensors`` with the weights, ``config.json`` with everything else.

Loading executes no code of the file: the weights are plain tensors and the network is described as data, from
which only operators of the library's own table are built. Saving is atomic: a folder is complete or not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError
from qffs.graph.describe import describe, rebuild
from qffs.levels import Schedule
from qffs.network import SpikingNetwork
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


def save(network: fx.GraphModule | SpikingNetwork, folder: str | Path, **about: Any) -> Path:
    """Write a network that `quantize`, `to_spiking` or `trace` returned to ``folder`` and return the folder.

    about: anything JSON can hold, given back by `load`. An earlier checkpoint in the folder is replaced only when the
    new one is complete; a folder that holds something else is not touched. Raises `CheckpointError`.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and holds no checkpoint: nothing was written; name another folder")
    graph = network.graph if isinstance(network, SpikingNetwork) else network
    config = {
        "format": FORMAT,
        "qffs": __version__,
        "kind": kind_of(network),
        "dtype": str(next(iter(graph.state_dict().values())).dtype).removeprefix("torch."),
        "schedule": list(network.schedule.weights) if isinstance(network, SpikingNetwork) else None,
        "network": describe(graph),
        "about": about,
    }
    text = json.dumps(config, indent=1)
    fresh, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        save_file({name: tensor.contiguous().clone() for name, tensor in graph.state_dict().items()}, fresh / WEIGHTS)
        for path in (fresh / CONFIG, fresh / WEIGHTS):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)  # should the machine stop here, `load` finds the old checkpoint
        fresh.rename(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint could not be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _beside(folder: Path, suffix: str) -> Path:
    absolute = folder.absolute()
    return absolute.with_name(f".{absolute.name}.{suffix}")


def kind_of(network: nn.Module) -> str:
    """What a network is: "snn", "qann" or "float"."""
    if isinstance(network, SpikingNetwork):
        return "snn"
    return "qann" if any(isinstance(module, Quantizer) for module in network.modules()) else "float"


def load(folder: str | Path) -> Checkpoint:
    """The checkpoint of a folder that `save` wrote; raises `CheckpointError` where it is missing or damaged."""
    folder = Path(folder)
    if not folder.exists() and _beside(folder, "old").exists():
        folder = _beside(folder, "old")
    config = _read_config(folder)
    tensors = read_weights(folder / WEIGHTS)
    graph = rebuild(config["network"], tensors).to(getattr(torch, config["dtype"]))
    load_weights(graph, tensors, str(folder / WEIGHTS))
    graph.eval()
    network = SpikingNetwork(graph, Schedule(tuple(config["schedule"]))) if config["kind"] == "snn" else graph
    return Checkpoint(config["kind"], network.eval(), config["about"])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    keys = {"format", "kind", "dtype", "schedule", "network", "about"}
    if not isinstance(config, dict) or not keys <= config.keys():
        raise CheckpointError(f"{path} is not a checkpoint of qffs: it lacks {', '.join(sorted(keys - set(config)))}")
    if config["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {config['format']}, but qffs {__version__} reads format {FORMAT}: "
            "use the version of qffs that wrote it"
        )
    if config["kind"] not in {"float", "qann", "snn"} or config["dtype"] not in {"float32", "float64", "bfloat16"}:
        raise CheckpointError(f"{path} is damaged: unknown kind {config['kind']!r} or type {config['dtype']!r}")
    return config


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; raises `CheckpointError` where it is missing or half-written."""
    if not Path(path).is_file():
        raise CheckpointError(f"there is no weight file {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from error


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a network, all or nothing.

    Raises `CheckpointError` with the first three names or shapes that do not fit; ``source`` is how it calls the file.
    """
    own = network.state_dict()
    problems = [f"{name} is missing in the file" for name in own if name not in tensors]
    problems += [f"{name} is not in the network" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the network"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    # Batch norm's counter of batches came later than many weight files, and matters to nobody who converts.
    problems = [problem for problem in problems if not problem.startswith(_counters(own))]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights of {source} do not fit the network: {'; '.join(problems[:3])}{more}")
    network.load_state_dict(dict(tensors), strict=False)


def _counters(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name + " is missing" for name in state if name.endswith("num_batches_tracked"))
