"""Whatever is damaged in the two files of a checkpoint, or in a weight file, is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qffs
from helpers import mutations
from helpers.problems import calibrated
from qffs.errors import QffsError
from qffs.graph.trace.trace import trace
from qffs.models.checkpoint import CONFIG, WEIGHTS, load, save
from qffs.models.weights import load_weights, read_weights

X = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 2)
    ).eval()


@pytest.fixture(scope="module", params=["float", "qann", "snn"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network: Any = trace(layers(), X) if request.param == "float" else calibrated(layers(), X)
    network = qffs.to_spiking(network) if request.param == "snn" else network
    return save(network, tmp_path_factory.mktemp(request.param) / "net", {"model": "small"})


def said(folder: Path) -> str:
    """Load a checkpoint, and run a spiking network; return the sentence of the refusal, or nothing."""
    try:
        loaded = load(folder)
        if loaded.kind == "snn":
            loaded.network(X, steps=6)
    except QffsError as error:
        return str(error)
    return ""


def check(sentences: list[str]) -> None:
    assert any(sentences)
    assert not any("\n" in sentence for sentence in sentences)


def copied(saved: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


def damaged_values(saved: Path, folder: Path, count: int, seed: int) -> list[str]:
    config, sentences = json.loads((saved / CONFIG).read_text(encoding="utf-8")), []
    for damaged in mutations.of_json(config, count, seed):
        (folder / CONFIG).write_text(json.dumps(damaged), encoding="utf-8")
        sentences.append(said(folder))
    return sentences


def test_damaged_values_of_the_configuration(saved: Path, tmp_path: Path) -> None:
    check(damaged_values(saved, copied(saved, tmp_path / "net"), 60, 0))


@pytest.mark.slow
def test_many_damaged_values_of_the_configuration(saved: Path, tmp_path: Path) -> None:
    check(damaged_values(saved, copied(saved, tmp_path / "net"), 400, 1))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_damaged_bytes(name: str, saved: Path, tmp_path: Path) -> None:
    folder, sentences = copied(saved, tmp_path / "net"), []
    for damaged in mutations.of_bytes((saved / name).read_bytes(), 60):
        (folder / name).write_bytes(damaged)
        sentences.append(said(folder))
    check(sentences)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_weight_files(suffix: str, saved: Path, tmp_path: Path) -> None:
    network, path, sentences = layers(), tmp_path / f"weights{suffix}", []
    if suffix == ".pt":
        torch.save(network.state_dict(), path)
    else:
        path.write_bytes((saved / WEIGHTS).read_bytes())
    for damaged in mutations.of_bytes(path.read_bytes(), 150):
        path.write_bytes(damaged)
        try:
            load_weights(network, read_weights(path), str(path))
            sentences.append("")
        except QffsError as error:
            sentences.append(str(error))
    check(sentences)
