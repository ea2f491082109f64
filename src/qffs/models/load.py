"""Networks that are stored, of any kind: from a folder, or trained networks of the library by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import fx

from qffs.convert import to_spiking
from qffs.errors import CheckpointError, InvalidArgument
from qffs.models import checkpoint, trained
from qffs.models.checkpoint import Checkpoint, check_kind
from qffs.models.source import nearest
from qffs.models.weights import path_of


def load(source: str | Path, kind: str | None = None) -> Checkpoint:
    """Return the network in a folder that `qffs.save` wrote, or a trained network that comes with the library.

    source: the folder, or a name that `qffs networks` lists, such as ``"cifar10-resnet20-2bit"``. kind: ``"snn"``,
    ``"qann"`` or ``"float"``, to be sure of what is returned. A trained network that is quantized can be had as either
    of the first two, and is a spiking one by default.

    Returns a `Checkpoint`: ``kind``, ``network`` in eval mode on the CPU, and ``about``, the notes. The network
    computes the same as the network that was saved. No code from the files is run.

    Raises `CheckpointError` if there is no such folder or name, if a file is missing, damaged or not the one of the
    card, if the network is of another kind, or if it has the format of another version of qffs; and `InvalidArgument`
    if there is no such kind.

    >>> loaded = load("digits-2bit")
    >>> loaded.kind, loaded.network(torch.zeros(1, 1, 8, 8), steps=4)[-1].shape
    ('snn', torch.Size([1, 10]))
    """
    if kind not in {None, "snn", "qann", "float"}:
        raise InvalidArgument(f"kind must be 'snn', 'qann' or 'float', not {kind!r}")
    return load_kind(kind, source, f"it cannot be loaded as {kind!r}")


def load_kind(kind: str | None, source: str | Path, advice: str) -> Checkpoint:
    """Return the network of a source as `load` does; advice: the end of the message if it is of another kind."""
    path = path_of(source)
    loaded = _of_library(str(path), kind) if trained.is_name(path) else _of_folder(path)
    if kind is not None:
        check_kind(loaded, kind, source, advice)
    return loaded


def _of_folder(folder: Path) -> Checkpoint:
    try:
        return checkpoint.load(folder)
    except CheckpointError as error:
        near = "" if folder.exists() or folder.name != str(folder) else nearest(folder.name, trained.names())
        raise CheckpointError(f"{error}{near}") from error


def _of_library(name: str, kind: str | None) -> Checkpoint:
    loaded = checkpoint.load(trained.folder(name))
    if loaded.kind != "qann" or kind not in {None, "snn"}:
        return loaded
    assert isinstance(loaded.network, fx.GraphModule)
    return replace(loaded, kind="snn", network=to_spiking(loaded.network, trained.schedule(name)))
