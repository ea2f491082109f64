"""Texts of an HDF5 file are those that its own library reads; damage never takes more than the file holds."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import pytest

from qffs.errors import CheckpointError
from qffs.export.nir.texts import HEAD, Texts

WORDS = ["", "a", "größer", "x" * 5000, "b" * 7, "c" * 8]


def read(path: Path, most_bytes: int = 10**6) -> list[str]:
    with path.open("rb") as stream, h5py.File(path) as file:
        return Texts(stream).of(file["words"], most_bytes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["words"] = WORDS
    return tmp_path / "words.h5"


def test_they_are_read_as_by_hdf5(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["words"].asstr()[()].tolist() == read(path) == WORDS


def test_more_than_allowed(path: Path) -> None:
    with pytest.raises(CheckpointError, match="words would need 5,024 bytes, where this file can hold 5,000"):
        read(path, 5000)


@pytest.mark.parametrize(
    ("position", "value", "sentence"),
    [
        (0, b"X", "are damaged"),
        (8, struct.pack("<Q", 0), "are damaged"),
        (8, struct.pack("<Q", 2**62), "are damaged"),
        (HEAD.size, b"\7", "a text is missing"),
    ],
)
def test_a_damaged_heap(position: int, value: bytes, sentence: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + position
    content[start : start + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read(path)


def test_the_place_of_a_text_outside_of_the_file(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["words"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 20 : offset + 28] = struct.pack("<Q", 2**40)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cut off"):
        read(path)
