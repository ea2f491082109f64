"""Weights of torch files: read as tensors or not at all, from wherever training scripts put them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from qffs.errors import CheckpointError
from qffs.models.weights import load_weights, read_weights


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Runs:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["w.pt", "w.pth.tar", "w.bin", "w.safetensors", "w"])
@pytest.mark.parametrize("within", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_found_whatever_the_file_is_called(
    name: str, within: str | None, legacy: bool, tmp_path: Path
) -> None:
    own = network().state_dict()
    content = own if within is None else {"epoch": 3, within: own, "best": 0.9}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    read = read_weights(tmp_path / name)
    assert read.keys() == own.keys()
    assert all(torch.equal(tensor, own[key]) for key, tensor in read.items())


def packed(path: Path, tensor: torch.Tensor) -> Path:
    """Return the path of a torch file whose records another program has compressed."""
    torch.save({"w": tensor}, path)
    with zipfile.ZipFile(path) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in records.items():
            zipped.writestr(name, content)
    return path


def test_a_file_that_unpacks_to_far_more_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_weights(packed(tmp_path / "w.pt", weights))["w"], weights)
    path = packed(tmp_path / "bomb.pt", torch.zeros(2**20))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked it"))
    with pytest.raises(
        CheckpointError, match=r"bomb\.pt has 0\.0 MiB and unpacks to 4\.0, but torch\.save packs nothing"
    ):
        read_weights(path)


def test_safetensors_are_known_by_their_content_too(tmp_path: Path) -> None:
    first = set()
    for size in range(40, 100):  # the size of the header is what the file begins with
        save_file({"w" * size: torch.ones(1)}, tmp_path / "w.pt")
        first.add((tmp_path / "w.pt").read_bytes()[0])
        assert list(read_weights(tmp_path / "w.pt")) == ["w" * size]
    assert 0x80 in first  # as a pickle begins


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_what_a_wrapper_puts_in_front_of_every_name_is_taken_off(prefix: str) -> None:
    own = {name: tensor + 1 for name, tensor in network().state_dict().items()}
    loaded = network()
    load_weights(loaded, {f"{prefix}{name}": tensor for name, tensor in own.items()}, "w")
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_a_part_that_is_called_module_keeps_its_name() -> None:
    own = nn.ModuleDict({"module": network()})
    load_weights(own, {name: tensor + 1 for name, tensor in own.state_dict().items()}, "w")
    half = {f"module.{name}" if "0" in name else name: tensor for name, tensor in network().state_dict().items()}
    with pytest.raises(CheckpointError, match=r"0\.weight is missing in the file.*module\.0\.weight is not in the net"):
        load_weights(network(), half, "w")


def test_the_names_of_a_file_that_does_not_fit_are_given_without_the_wrapper(tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in network().state_dict().items()}, tmp_path / "w.pt")
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, read_weights(tmp_path / "w.pt"), "w.pt")
    assert str(caught.value) == (
        "the weights of w.pt do not fit the network: 2.weight has shape (2, 4) in the file and (5, 4) in the network; "
        "2.bias has shape (2,) in the file and (5,) in the network"
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_runs_none(legacy: bool, tmp_path: Path) -> None:
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    for content in ({"state_dict": {}, "more": Runs(ran)}, network()):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError) as caught:
            read_weights(path)
        assert str(caught.value) == (
            f"{path} cannot be read as weights only, and reading all of it would run code of the file: "
            "write the state dict alone, torch.save(network.state_dict(), path)"
        )
    assert not ran.exists()


def test_a_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"w\.pkl "):
        read_weights(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, where a state dict is needed"),
        (torch.ones(3), "holds a Tensor, where a state dict is needed"),
        ({"epoch": 3, "best": {"w": torch.ones(1)}}, "holds no state dict: these values are not tensors: epoch, best"),
        ({"model": {"w": 1, "v": 2, "u": 3, "t": 4}}, "holds no state dict: these values are not tensors: w, v, u"),
    ],
)
def test_a_torch_file_without_a_state_dict_says_what_it_holds(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"w.pt {message}"):
        read_weights(tmp_path / "w.pt")


def test_half_a_torch_file_is_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"w\.pt is no complete torch file: RuntimeError: .*"):
        read_weights(tmp_path / "w.pt")


def test_a_mask_of_infinities_is_no_broken_weight() -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.zeros(2))
    good = {**network.state_dict(), "mask": torch.tensor([0.0, -torch.inf])}
    load_weights(network, good, "w")
    assert network.get_buffer("mask")[1] == -torch.inf
    for name, value in (("mask", torch.nan), ("bias", torch.inf)):
        with pytest.raises(CheckpointError, match=f"NaN or infinity in {name}"):
            load_weights(network, {**good, name: torch.tensor([0.0, value])}, "w")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"there is no weight file .*w\.pt"):
        read_weights(tmp_path / "w.pt")


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"w\xff\xfe.safetensors")
    path.write_bytes(save(network().state_dict()))
    load_weights(network(), read_weights(path), "w")
