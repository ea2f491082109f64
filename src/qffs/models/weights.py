"""Trained weights from a file, by name: safetensors, or what ``torch.save`` wrote. Reading runs no code of the file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qffs.errors import CheckpointError

WEIGHTS = "model.safetensors"

WITHIN = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts put the state dict, in what they save beside the optimizer and the epoch."""

WRAPPERS = ("module.", "_orig_mod.")
"""What nn.DataParallel and torch.compile put in front of every name."""


def path_of(path: str | Path) -> Path:
    """The path as a `Path`; raises `CheckpointError` on what is none."""
    try:
        return Path(path)
    except TypeError:
        raise CheckpointError(f"{path!r} is no path of a file or folder") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors, by name, of a safetensors file, a checkpoint folder, or a torch file that holds a state dict.

    The content tells which it is, not the name. A torch file is read with ``weights_only=True``; its state dict may
    stand under one of `WITHIN`. Raises `CheckpointError` where it is missing, half-written or of another kind, or
    where reading it would run code.
    """
    path = path_of(path)
    if os.path.isdir(path):  # which, unlike Path.is_dir, answers for any name
        return read_safetensors(path / WEIGHTS)
    return _read_torch(path) if _begins_as_torch_file(path) else read_safetensors(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; raises `CheckpointError` where it is missing or broken."""
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}")
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from error


def _begins_as_torch_file(path: Path) -> bool:
    """Whether a file begins as an archive or as a pickle, and not as safetensors: eight bytes of size, then a brace."""
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError:
        return False
    return start[8:] != b"{" and start.startswith((b"PK", b"\x80"))


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as stream:  # given a path, torch would go by its suffix
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be read as weights only, and reading all of it would run code of the file: "
            "write the state dict alone, torch.save(network.state_dict(), path)"
        ) from error
    except Exception as error:  # what others wrote can be wrong in nearly any way
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"{path} is no complete torch file: {type(error).__name__}: {reason}") from error
    tensors: Any = content
    if isinstance(content, Mapping):
        tensors = next((content[key] for key in WITHIN if isinstance(content.get(key), Mapping)), content)
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}, where a state dict is needed")
    others = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds no state dict: what is at {', '.join(others[:3])} is no tensor")
    return {str(name): tensor for name, tensor in tensors.items()}


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load trained weights into a network, all or nothing.

    A prefix of `WRAPPERS` before every name is taken off where the network has none such. Raises `CheckpointError`
    with the first three names or shapes that do not fit, or where a weight is NaN or infinite; ``source`` is how it
    calls the file.
    """
    own = network.state_dict()
    tensors = _unwrapped(tensors, own)
    # Batch norm's counter of batches came later than many weight files, and matters to nobody who converts.
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in tensors}
    tensors = {**tensors, **counters}
    refuse(misfits(own, tensors), source)
    trained = {name for name, _ in network.named_parameters(remove_duplicate=False)}

    def sound(name: str, tensor: Tensor) -> Tensor:  # a buffer may be a mask, with -inf where nothing passes
        return torch.isfinite(tensor) if name in trained else ~torch.isnan(tensor)

    broken = [name for name, tensor in tensors.items() if not bool(sound(name, tensor).all())]
    if broken:
        raise CheckpointError(f"{source} holds NaN or infinity in {', '.join(broken[:3])}")
    network.load_state_dict(tensors)


def _unwrapped(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in (*WRAPPERS, *WRAPPERS):  # one may stand around the other, either way
        if all(name.startswith(prefix) for name in tensors) and not any(name.startswith(prefix) for name in own):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
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


def refuse(problems: list[str], source: str) -> None:
    """Raise `CheckpointError` with the first three of what `misfits` found, where it found anything."""
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights of {source} do not fit the network: {'; '.join(problems[:3])}{more}")
