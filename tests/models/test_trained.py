"""The trained networks of the library: complete, as their cards say, and refused when a file is another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from qffs.errors import CheckpointError
from qffs.models import trained
from qffs.models.find import find
from qffs.models.load import load


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with one of the networks, which the library takes for its own."""
    shutil.copytree(trained.FOLDER / "digits-2bit", tmp_path / "digits-2bit")
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    return tmp_path / "digits-2bit"


@pytest.mark.parametrize("name", trained.names())
def test_a_network_is_what_its_card_says(name: str) -> None:
    card = trained.card(name)
    loaded = load(name, card["kind"])
    assert (loaded.kind == "float") == (card["full_precision"] is None)
    assert loaded.about["model"] == card["results"]["model"]
    assert card["full_precision"] is None or trained.card(card["full_precision"])["kind"] == "float"
    assert card["license"]
    assert card["source"]
    shape = find(card["full_precision"] or name).shapes[0]
    assert " x ".join(map(str, shape)) in card["input"]
    outputs = loaded.network(torch.zeros(1, *shape))
    assert outputs.shape == (1, len(card["classes"]))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_another_content_is_refused(copied: Path, file: str) -> None:
    assert load("digits-2bit").kind == "snn"
    content = bytearray((copied / file).read_bytes())
    content[-3] ^= 1
    (copied / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file} is not the file of the trained network digits-2bit: install"):
        load("digits-2bit")
    (copied / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is not the file"):
        load("digits-2bit")


def test_an_unknown_name_is_told_with_the_others() -> None:
    with pytest.raises(
        CheckpointError, match=r"^no trained network 'nothing' comes with qffs; there are .*digits-2bit"
    ):
        trained.card("nothing")


def test_only_a_name_that_is_no_path_here_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trained.is_name("digits-2bit")
    assert trained.is_name(Path("digits-2bit"))
    assert not trained.is_name("digits-2bits")
    (tmp_path / "digits-2bit").mkdir()
    assert not trained.is_name("digits-2bit")


def test_the_size_is_that_of_all_files(copied: Path) -> None:
    (copied / "card.json").write_bytes(b"x" * 100)
    files = [copied / "config.json", copied / "model.safetensors"]
    assert trained.size("digits-2bit") == 100 + sum(len(file.read_bytes()) for file in files)
