"""Stored networks by folder or name: the kind that is asked for, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qffs
from qffs.errors import CheckpointError, InvalidArgument
from qffs.models import trained
from qffs.models.checkpoint import save


def test_a_trained_network_is_a_spiking_one_or_its_quantized_network() -> None:
    snn, qann = qffs.load("digits-2bit"), qffs.load("digits-2bit", kind="qann")
    assert (snn.kind, qann.kind) == ("snn", "qann")
    assert list(snn.network.schedule.weights) == trained.card("digits-2bit")["results"]["charge_schedule"]
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    qffs.verify(qann.network, snn.network, x)
    assert qffs.load("digits").kind == "float"


def test_a_folder_is_loaded_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qann = qffs.load("digits-2bit", kind="qann").network
    monkeypatch.chdir(tmp_path)
    save(qann, "digits-2bit", {"mine": 1})
    assert qffs.load("digits-2bit").about == {"mine": 1}
    assert qffs.load(tmp_path / "digits-2bit", kind="qann").kind == "qann"
    with pytest.raises(CheckpointError, match=r"holds a network of kind 'qann': it cannot be loaded as 'snn'$"):
        qffs.load("digits-2bit", kind="snn")


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("digits", "snn", r"^digits holds a network of kind 'float': it cannot be loaded as 'snn'$"),
        ("digits-2bit", "float", r"^digits-2bit holds a network of kind 'qann': "),
        ("digit-2bit", None, r"digit-2bit is not a checkpoint: .*; nearest to it: digits-2bit"),
        ("runs/digit-2bit", None, r"is not a checkpoint: it has no config\.json$"),
        (3, None, r"^3 is no path of a file or folder$"),
    ],
)
def test_what_cannot_be_loaded_is_told(source: str, kind: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        qffs.load(source, kind)


def test_a_kind_that_there_is_not_is_told() -> None:
    with pytest.raises(InvalidArgument, match=r"^kind must be 'snn', 'qann' or 'float', not 'spiking'$"):
        qffs.load("digits-2bit", kind="spiking")
