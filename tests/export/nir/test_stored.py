"""Files of NIR that are damaged or hostile: one sentence, no other file is read, and no more memory than they hold."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import qffs
from helpers import mutations
from helpers.problems import calibrated
from qffs import export
from qffs.errors import CheckpointError, QffsError

X = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    path = tmp_path_factory.mktemp("nir") / "good.nir"
    export.nir_exact(qffs.to_spiking(calibrated(layers, X)), path, steps=6)
    return path


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(good, tmp_path / "copied.nir"))


def put(key: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = value

    return change


def drop(key: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(key)


def more_edges(*edges: tuple[str, str]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        before = file["node/edges"].asstr()[()].tolist()
        put("node/edges", [*before, *map(list, edges)])(file)

    return change


def described(**changes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        known = json.loads(file["node/metadata/qffs"][()])
        put("node/metadata/qffs", json.dumps(known | changes))(file)

    return change


def sized(key: str, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, **options)

    return change


def huge_chunk(file: h5py.File) -> None:
    sized(WEIGHT, shape=(5, 4), dtype="f8", chunks=(2**14, 2**14), maxshape=(None, None), compression="gzip")(file)
    file[WEIGHT].id.write_direct_chunk((0, 0), b"x" * 100)


def repeated(file: h5py.File) -> None:
    del file["node/metadata/qffs"]
    file["node/metadata/again"] = file["node"]


def other_file(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["s"] = np.ones((5, 4))
    put("node/nodes/_0/weight", h5py.ExternalLink("other.h5", "/s"))(file)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(5, 4), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "s", shape=(5, 4))
    del file["node/nodes/_0/weight"]
    file.create_virtual_dataset("node/nodes/_0/weight", layout)


WEIGHT, READ = "node/nodes/_0/weight", "cannot be read as NIR"
CASES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "a node is missing": (drop("node/nodes/1.count"), "edges name '1.count', which is none of its nodes"),
    "a field is missing": (drop(WEIGHT), "its node '_0' is damaged: TypeError"),
    "no graph": (drop("node"), READ),
    "a number for a weight": (put(WEIGHT, -1), "its node '_0' is damaged: AssertionError"),
    "an unknown type": (put("node/nodes/_0/type", "Evil"), "its node '_0' is damaged"),
    "a type that is not run": (put("node/nodes/_0/type", "Delay"), "its node '_0' is damaged"),
    "a number for a node": (put("node/nodes/_0", 1), "its node '_0' is damaged"),
    "a number for all nodes": (put("node/nodes", -1), "it holds no graph of nodes"),
    "a number for the edges": (put("node/edges", np.nan), "its edges are no pairs of names"),
    "edges of three": (put("node/edges", [["a", "b", "c"]]), "its edges are no pairs of names"),
    "an edge to no node": (more_edges(("ghost", "_0")), "its edges name 'ghost'"),
    "a circle": (more_edges(("_0", "input_1")), "the nodes .* form a circle without an integrator"),
    "two shapes that add up": (more_edges(("1.sent", "output")), "is damaged"),
    "a shape that spreads": (put("node/nodes/1.u/r", np.ones((5, 1))), r"1\.u receives or holds another shape"),
    "a weight of another shape": (put(WEIGHT, np.ones((5, 7))), "is damaged"),
    "a weight of a whole image": (put(WEIGHT, np.ones((2, 5, 4))), "is damaged"),
    "NaN": (put(WEIGHT, np.full((5, 4), np.nan)), "_0 holds NaN or infinity in weight"),
    "infinity": (put("node/nodes/1.sent/scale", np.full(5, np.inf)), r"1\.sent holds NaN or infinity in scale"),
    "an impossible shape": (put("node/nodes/1.charge/shape", np.array([-5])), "is damaged"),
    "a huge shape": (put("node/nodes/1.charge/shape", np.array([2**40])), "is damaged"),
    "populations as a list": (described(populations=[]), "was not written by"),
    "populations of one": (described(populations={"1": ["1.positive"]}), "was not written by"),
    "populations of numbers": (described(populations={"1": [1, 2]}), "was not written by"),
    "no inputs": (described(inputs=[]), "this graph takes the inputs"),
    "inputs as a number": (described(inputs=3), "was not written by"),
    "charge as a text": (described(charge="1"), "was not written by"),
    "an endless number": (described(charge=[10**400]), "was not written by"),
    "metadata nested too deep": (put("node/metadata/qffs", "[" * 50000), "was not written by"),
    "metadata as a number": (put("node/metadata/qffs", 3), "was not written by"),
    "complex numbers": (put(WEIGHT, np.ones((5, 4), complex)), "of type complex128"),
    "a table": (put(WEIGHT, np.zeros(3, [("a", "f8")])), "which are neither numbers nor texts"),
    "bytes": (put("node/nodes/_0/type", np.bytes_("Linear")), "texts in another form"),
    "fill values": (
        sized(WEIGHT, shape=(200_000, 200_000), dtype="f8", chunks=(1000, 1000), fillvalue=0),
        r"_0/weight would need 320,000,000,000 bytes of memory, where this file can hold 0",
    ),
    "fill values in one piece": (sized(WEIGHT, shape=(2**20, 2**20), dtype="f8"), "would need 8,796,093,022,208 bytes"),
    "a huge chunk": (huge_chunk, "_0/weight would need 2,147,483,648 bytes of memory"),
    "a link to another file": (other_file, "_0/weight is a link to another place"),
    "a link within the file": (put(WEIGHT, h5py.SoftLink("/node/nodes/_2/weight")), "is a link to another place"),
    "an array made of another file's": (virtual, "the numbers of node/nodes/_0/weight lie in another file"),
    "numbers kept in another file": (
        sized(WEIGHT, shape=(5, 4), dtype="f8", external=[("other.bin", 0, 160)]), "lie in another file",
    ),
    "a group in itself": (repeated, "node/metadata/again lies in two places"),
    "an empty array": (put(WEIGHT, h5py.Empty("f8")), "neither an array nor a group"),
    "a type in the place of an array": (put(WEIGHT, np.dtype("f8")), "neither an array nor a group"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_damage_is_one_sentence(name: str, copied: Path) -> None:
    change, sentence = CASES[name]
    with h5py.File(copied, "a") as file:
        change(file)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        export.read_nir(copied)
    assert str(copied) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_that_lie_too_deep(copied: Path) -> None:
    with h5py.File(copied, "a") as file:
        file.create_group("node/" + "/".join("x" * 2000))
    with pytest.raises(CheckpointError, match="lies more than 8 groups deep"):
        export.read_nir(copied)


def test_an_image_that_a_convolution_makes_huge(tmp_path: Path) -> None:
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    layers = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3)).double()
    export.nir_exact(qffs.to_spiking(calibrated(layers, x)), tmp_path / "a.nir", steps=6)
    with h5py.File(tmp_path / "a.nir", "a") as file:
        (name,) = (name for name, node in file["node/nodes"].items() if name.startswith("_2") and "padding" in node)
        put(f"node/nodes/{name}/padding", np.array([100_000, 100_000]))(file)
        (bias,) = (name for name, node in file["node/nodes"].items() if name.startswith("output.bias"))
        edges = [edge for edge in file["node/edges"].asstr()[()].tolist() if edge != [bias, "output"]]
        put("node/edges", edges)(file)
    with pytest.raises(CheckpointError, match=r"would need [\d,]+ bytes of memory for each image"):
        export.read_nir(tmp_path / "a.nir")


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nir")
    for name in ("pipe.nir", "missing.nir", "."):
        with pytest.raises(CheckpointError, match="there is no file"):
            export.read_nir(tmp_path / name)
    with pytest.raises(CheckpointError, match="is no path"):
        export.read_nir(3)  # type: ignore[arg-type]


def test_the_path_may_begin_with_the_home_folder(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(good.parent))
    assert export.read_nir(f"~/{good.name}")(X, steps=6).equal(export.read_nir(good)(X, steps=6))


def said(path: Path) -> str:
    """Read a file and run it; return the sentence of the refusal, or nothing."""
    try:
        export.read_nir(path)(X, steps=6)
    except QffsError as error:
        return str(error)
    return ""


def fuzz(content: bytes, path: Path, count: int, seed: int) -> None:
    before, sentences = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for damaged in mutations.of_bytes(content, count, seed):
        path.write_bytes(damaged)
        sentences.append(said(path))
    assert not any("\n" in sentence for sentence in sentences)
    assert any(sentences)
    assert not all(sentences)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024  # KiB


def test_damaged_bytes_are_one_sentence(good: Path, tmp_path: Path) -> None:
    fuzz(good.read_bytes(), tmp_path / "damaged.nir", 60, seed=0)


@pytest.mark.slow
def test_many_damaged_bytes_are_one_sentence(good: Path, tmp_path: Path) -> None:
    fuzz(good.read_bytes(), tmp_path / "damaged.nir", 500, seed=1)


def test_damaged_descriptions_are_one_sentence(copied: Path) -> None:
    with h5py.File(copied) as file:
        known = json.loads(file["node/metadata/qffs"][()])
    for damaged in mutations.of_json(known, 60):
        with h5py.File(copied, "a") as file:
            put("node/metadata/qffs", json.dumps(damaged))(file)
        assert "\n" not in said(copied)
