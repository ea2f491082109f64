"""Checkpoints that an earlier version wrote load, and compute the same: see tests/fixtures/checkpoints/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qffs
from helpers.places import ROOT
from qffs.models.checkpoint import CONFIG
from qffs.models.weights import WEIGHTS

FOLDER = ROOT / "tests" / "fixtures" / "checkpoints"
NETWORKS = sorted(path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob(CONFIG))

SOFTMAX = 1e-14
"""How far outputs of the network in full precision may differ, whose softmax depends on the processor."""


def outputs(network: torch.nn.Module, kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind != "snn":
        return network(x).detach()
    assert isinstance(network, qffs.SpikingNetwork)
    readout: torch.Tensor = network(x, steps=12, backend="reference")
    return readout


@pytest.mark.parametrize("name", NETWORKS)
def test_an_old_checkpoint_computes_what_it_computed(name: str) -> None:
    folder, kind = FOLDER / name, name.split("/")[1]
    expected = load_file(folder.parent / "outputs.safetensors")
    loaded = qffs.load(folder)
    assert loaded.kind == kind
    assert loaded.about == {"written_by": "before"}
    out = outputs(loaded.network, kind, expected["x"])
    assert out.dtype == torch.float64
    if name == "mixed/float":
        assert torch.allclose(out, expected[kind], rtol=0, atol=SOFTMAX)
    else:
        assert torch.equal(out, expected[kind])


def test_the_reference_computes_the_same() -> None:
    for folder in sorted(path.parent for path in FOLDER.rglob("snn/")):
        expected = load_file(folder / "outputs.safetensors")
        snn = qffs.load(folder / "snn").network
        assert isinstance(snn, qffs.SpikingNetwork)
        readout, _ = snn.run(expected["x"], steps=12)
        assert torch.equal(readout, expected["snn"])


def test_an_old_quantized_network_converts_to_the_spiking_network_beside_it() -> None:
    for name in ("mixed", "plain"):
        expected = load_file(FOLDER / name / "outputs.safetensors")
        snn = qffs.to_spiking(qffs.load(FOLDER / name / "qann").network, charge_steps=[0.5, 0.25, 0.25])
        assert torch.equal(snn(expected["x"], steps=12, backend="reference"), expected["snn"])


@pytest.mark.parametrize("name", NETWORKS)
def test_names_of_operators_and_weights_are_the_same_when_it_is_saved_again(name: str, tmp_path: Path) -> None:
    again = qffs.save(qffs.load(FOLDER / name).network, tmp_path / "again")
    assert description(again) == description(FOLDER / name)
    old, new = (load_file(folder / WEIGHTS) for folder in (FOLDER / name, again))
    assert sorted(old) == sorted(new)
    assert all(torch.equal(old[key], new[key]) for key in old)


def description(folder: Path) -> tuple[list[Any], dict[str, str]]:
    """Return the nodes of a saved graph, and the types of its modules."""
    network = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["network"]
    return network["nodes"], {path: module["type"] for path, module in network["modules"].items()}


def test_all_networks_are_there() -> None:
    assert len(NETWORKS) == 10
    texts = [(FOLDER / name / CONFIG).read_text(encoding="utf-8") for name in NETWORKS]
    assert any("qffs.functional.write.write" in text for text in texts)
    assert any("qffs.functional.cast.at_least" in text for text in texts)
