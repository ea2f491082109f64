"""Trained weights by name, from a safetensors file or a file of ``torch.save``. Reading runs no code from the file."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor, nn

from qffs.errors import CheckpointError
from qffs.files import expanded
from qffs.nn.inspect import broken

WEIGHTS = "model.safetensors"

WITHIN = ("state_dict", "model_state_dict", "model", "net")
"""The keys under which training scripts save the state dict, beside the optimizer and the epoch."""

RATIO = 10
"""How many times its own size a torch file may unpack to: weights hardly get smaller when they are packed."""

WRAPPERS = ("module.", "_orig_mod.")
"""The prefixes that nn.DataParallel and torch.compile put before every name."""


def path_of(path: str | Path) -> Path:
    """Return the path as a `Path`, with the home folder in the place of ``~``; see `expanded`.

    Raises `CheckpointError` on a value that is no path.
    """
    try:
        return expanded(path)
    except TypeError:
        raise CheckpointError(f"{path!r} is no path of a file or folder") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors by name of a safetensors file, a checkpoint folder, or a torch file with a state dict.

    The content decides what kind of file it is, not its name. A torch file is read with ``weights_only=True``; its
    state dict may be under one of the keys `WITHIN`. Raises `CheckpointError` if the file is missing, incomplete or of
    another kind, if it unpacks to more than `RATIO` times its size, or if reading it would run code.
    """
    path = path_of(path)
    if os.path.isdir(path):  # Path.is_dir raises on some names
        return read_safetensors(path / WEIGHTS)
    return _read_torch(path) if os.path.isfile(path) and _begins_as_torch_file(path) else read_safetensors(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of a safetensors file; raise `CheckpointError` if it is missing or damaged."""
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}")
        return load_file(path) if str(path).isprintable() else load(path.read_bytes())  # it opens only names in UTF-8
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from error


def _begins_as_torch_file(path: Path) -> bool:
    """Return whether a file begins like a zip or a pickle, and not like safetensors: 8 bytes of size, then ``{``."""
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError:
        return False
    return start[8:] != b"{" and start.startswith((b"PK", b"\x80"))


def _check_unpacked(path: Path) -> None:
    """Raise `CheckpointError` if a torch file is a zip that unpacks to more than `RATIO` times its size."""
    try:
        with zipfile.ZipFile(path) as zipped:
            unpacked, size = sum(entry.file_size for entry in zipped.infolist()), path.stat().st_size
    except Exception:  # no zip, or a damaged one, which torch names
        return
    if unpacked > RATIO * size:
        raise CheckpointError(
            f"{path} has {size / 2**20:,.1f} MiB and unpacks to {unpacked / 2**20:,.1f}, but torch.save packs nothing: "
            "write the state dict again, torch.save(network.state_dict(), path)"
        )


def _read_torch(path: Path) -> dict[str, Tensor]:
    _check_unpacked(path)
    try:
        with path.open("rb") as stream:  # with a path, torch would decide by its suffix
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be read as weights only, and reading all of it would run code of the file: "
            "write the state dict alone, torch.save(network.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged file can raise nearly any error
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"{path} is no complete torch file: {type(error).__name__}: {reason}") from error
    tensors: Any = content
    if isinstance(content, Mapping):
        tensors = next((content[key] for key in WITHIN if isinstance(content.get(key), Mapping)), content)
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}, where a state dict is needed")
    others = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds no state dict: these values are not tensors: {', '.join(others[:3])}")
    return {str(name): tensor for name, tensor in tensors.items()}


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load trained weights into a network: all of them, or none.

    A prefix of `WRAPPERS` before every name is removed if no name of the network has it. source: the name of the file
    in messages. Raises `CheckpointError` with the first three names or shapes that do not fit, or with the names of the
    weights that contain NaN or infinity.
    """
    expected = network.state_dict()
    tensors = _unwrapped(tensors, expected)
    # Many weight files are older than batch norm's counter of batches, and a conversion does not need it.
    counters = {
        name: expected[name] for name in expected if name.endswith("num_batches_tracked") and name not in tensors
    }
    tensors = {**tensors, **counters}
    refuse(misfits(expected, tensors), source)
    refuse_broken(network, tensors, source)
    network.load_state_dict(tensors)


def _unwrapped(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in (*WRAPPERS, *WRAPPERS):  # both may be present, in either order
        if all(name.startswith(prefix) for name in tensors) and not any(name.startswith(prefix) for name in expected):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def misfits(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return why tensors cannot replace those of a network, one phrase for each reason; empty if they can."""
    problems = [f"{name} is missing in the file" for name in expected if name not in tensors]
    problems += [f"{name} is not in the network" for name in tensors if name not in expected]
    both = [(name, tensors[name], expected[name]) for name in expected if name in tensors]
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


def refuse(problems: list[str], source: str) -> None:
    """Raise `CheckpointError` with the first three reasons from `misfits`, if there are any."""
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights of {source} do not fit the network: {'; '.join(problems[:3])}{more}")


def refuse_broken(network: nn.Module, tensors: Mapping[str, Tensor] | None, source: str) -> None:
    """Raise `CheckpointError` if tensors that are to replace those of a network, or its own, hold NaN or infinity.

    The message has the names of the first three; see `qffs.nn.inspect.broken`.
    """
    names = broken(network, tensors)
    if names:
        raise CheckpointError(f"{source} holds NaN or infinity in {', '.join(names[:3])}")
