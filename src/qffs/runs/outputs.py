"""Checks of what a command writes outside of a run of its own: nothing of a run or of others is replaced."""

from __future__ import annotations

from pathlib import Path

from qffs.errors import InvalidArgument
from qffs.files import check_replaceable
from qffs.models.checkpoint import CONFIG, check_folder
from qffs.runs.folder import LOCK, WRITTEN, check_inputs, mapping_in
from qffs.train.state import FILE


def check_owner(path: Path) -> None:
    """Raise `InvalidArgument` if a file or folder has the name of one that a run writes in its folder, or lies in one.

    A run that has not ended has a lock or a state in its folder.
    """
    whole = path.resolve()
    for each in (whole, *whole.parents):
        run = each.parent
        sure = each == whole or (each / CONFIG).exists()  # another folder may be called snn too, beside other results
        marks = ("results.json", FILE, LOCK) if sure else (LOCK,)
        if each.name in WRITTEN and any((run / name).exists() for name in marks):
            raise InvalidArgument(f"{path} belongs to the run in {run}: name another output")


def check_checkpoint(folder: Path, kind: str, *inputs: str | None) -> None:
    """Raise if a command must not write a checkpoint of a kind to a folder.

    inputs: the paths of the command's inputs, or names of networks. Refused is a folder with an input, with a
    checkpoint of another kind, with files that are no checkpoint, or with the checkpoint of a run.
    """
    check_folder(folder)
    check_inputs(folder, *inputs)
    present = mapping_in(folder / CONFIG).get("kind", kind)
    if present != kind:
        raise InvalidArgument(f"{folder} holds a network of kind {present!r}, not {kind!r}: name another folder")
    check_owner(folder)


def check_set(path: Path, name: str, *keys: bytes) -> tuple[str, ...]:
    """Return the names of a JSON file and its figures beside it, in PNG and SVG.

    Raises `InvalidArgument` if one of them is there and is not of the command. name: the command. keys: keys in each of
    its JSON files, by which they are recognized.
    """
    check_replaceable(path, f"a file of {name}", b"{", *(b'"' + key + b'"' for key in keys))
    figures = [path.with_suffix(end) for end in (".png", ".svg")]
    for figure in figures:
        if figure.exists() and not path.exists():
            raise InvalidArgument(f"{figure} exists and is not a file of {name}: name another --output, or remove it")
    return tuple(each.name for each in (path, *figures))
