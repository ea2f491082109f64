"""Graphs of NIR in files, which may be damaged: only plain arrays and texts are read, and no more than a file holds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import nir
import numpy as np

from qffs.errors import CheckpointError
from qffs.export.nir.texts import Texts
from qffs.models.weights import path_of

EXPANSION = 1032
"""The most bytes into which the compression of these files (deflate) can expand one byte."""
DEEPEST = 8
"""The most groups within each other; NIR needs four."""


@dataclass(frozen=True)
class Stored:
    """A graph of NIR from a file. most_bytes: the memory that its arrays could need at most, by the file's size."""

    graph: nir.NIRGraph
    most_bytes: int


def read(path: str | Path) -> Stored:
    """Return the graph in a file; raise `CheckpointError` if the file cannot be read as NIR.

    Links to other places and other files are refused, and so are arrays that are larger than their part of the file
    can be, such as one of which only the fill value is stored.
    """
    path = path_of(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}")
        with path.open("rb") as stream, h5py.File(path, "r") as file:
            reader = _Reader(stream, path.stat().st_size)
            fields = reader.group(file["node"], "node")
        return Stored(_graph(fields), reader.most_bytes)
    except Exception as error:  # h5py raises errors of many types for damaged files
        raise CheckpointError(f"{path} cannot be read as NIR: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _graph(fields: dict[str, Any]) -> nir.NIRGraph:
    """Return the graph of its fields; raise `CheckpointError` where they are those of none."""
    nodes, edges = fields.get("nodes"), fields.get("edges")
    if fields.get("type") != nir.NIRGraph.__name__ or not isinstance(nodes, dict):
        raise CheckpointError("it holds no graph of nodes")
    if not isinstance(edges, np.ndarray) or edges.dtype != object or edges.shape[1:] != (2,):
        raise CheckpointError("its edges are no pairs of names")
    pairs = [(source, target) for source, target in edges]
    unknown = {name for pair in pairs for name in pair} - set(nodes)
    if unknown:
        raise CheckpointError(f"its edges name {min(unknown)!r}, which is none of its nodes")
    built = {name: _node(name, node) for name, node in nodes.items()}
    # NIR computes wrong types for kernels that are not square, so its check of types is off.
    return nir.NIRGraph(built, pairs, metadata=fields.get("metadata", {}), type_check=False)


def _node(name: str, fields: Any) -> nir.NIRNode:
    try:
        return nir.dict2NIRNode(fields)
    except Exception as error:  # of nearly any type, for NIR does not check the fields
        raise CheckpointError(f"its node {name!r} is damaged: {type(error).__name__}: {_reason(error)}") from error


class _Reader:
    """Reads groups and arrays of an open file, at most ``most_bytes`` of them altogether.

    stream: the same file, as bytes. size: its number of bytes.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.texts, self.size = Texts(stream), size
        self.most_bytes = self.left = EXPANSION * size
        self.seen = set[tuple[int, int]]()

    def group(self, group: Any, name: str, depth: int = 1) -> dict[str, Any]:
        """Return the content of a group by name: arrays, texts, and groups as dictionaries."""
        self._once(group, name)
        if not isinstance(group, h5py.Group):
            raise CheckpointError(f"{name} is no group")
        if depth > DEEPEST:
            raise CheckpointError(f"{name} lies more than {DEEPEST} groups deep")
        content = {}
        for key in group:
            inner = f"{name}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise CheckpointError(f"{inner} is a link to another place, which a graph does not need")
            value = group[key]
            content[key] = (
                self.group(value, inner, depth + 1) if isinstance(value, h5py.Group) else self._array(value, inner)
            )
        return content

    def _once(self, value: Any, name: str) -> None:
        """Raise `CheckpointError` on an object that was read before: links to it could repeat it without an end."""
        info = h5py.h5o.get_info(value.id)
        if (info.fileno, info.addr) in self.seen:
            raise CheckpointError(f"{name} lies in two places of the file")
        self.seen.add((info.fileno, info.addr))

    def _array(self, value: Any, name: str) -> Any:
        self._once(value, name)
        if not isinstance(value, h5py.Dataset) or value.shape is None:
            raise CheckpointError(f"{name} is neither an array nor a group")
        if value.external or value.is_virtual:
            raise CheckpointError(f"the numbers of {name} lie in another file")
        text = h5py.check_string_dtype(value.dtype)
        if text is None and value.dtype.kind not in "biuf":
            raise CheckpointError(f"{name} holds values of type {value.dtype}, which are neither numbers nor texts")
        stored = value.id.get_storage_size()
        if stored > self.size:
            raise CheckpointError(f"{name} would take {stored:,} bytes of a file of {self.size:,}")
        self._take(max(value.nbytes, value.dtype.itemsize * prod(value.chunks or ())), EXPANSION * stored, name)
        if text is None:
            return value[()]
        texts = self.texts.of(value, self.left)
        self._take(sum(map(len, texts)), self.left, name)
        return np.array(texts, dtype=object).reshape(value.shape) if value.shape else texts[0]

    def _take(self, needed: int, most: int, name: str) -> None:
        """Count bytes of memory; raise `CheckpointError` on more than the file can hold."""
        most = min(most, self.left)
        if needed > most:
            raise CheckpointError(f"{name} would need {needed:,} bytes of memory, where this file can hold {most:,}")
        self.left -= needed
