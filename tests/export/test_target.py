"""What every target asks of a network."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qffs
from helpers.full_disk import full_from
from helpers.problems import calibrated
from qffs.errors import Diverged, QffsError
from qffs.export import TARGETS
from qffs.export.target import Target


def network_for(target: Target) -> Any:
    torch.manual_seed(0)
    qann = calibrated(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(2, 3))
    return qann if "qann" in target.kinds else qffs.to_spiking(qann)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_target_takes_a_weight_that_is_nan(name: str, tmp_path: Path) -> None:
    network = network_for(TARGETS[name])
    next(tensor for key, tensor in network.state_dict().items() if key.endswith("2.weight"))[0, 0] = math.nan
    with pytest.raises(Diverged, match=r"first in (graph\.)?2\.weight"):
        TARGETS[name].write(network, tmp_path / "file.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_full_disk_is_one_sentence_that_names_the_path(name: str, tmp_path: Path) -> None:
    network, path = network_for(TARGETS[name]), tmp_path / "folder" / "file.pt2"
    with full_from(500), pytest.raises(QffsError, match=re.escape(str(path))):
        TARGETS[name].write(network, path)
    assert [each for each in tmp_path.rglob("*") if each.is_file() or each.name.startswith(".")] == []


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.folder])
@pytest.mark.parametrize("file", [b"x.json", b"x.textproto", b"x\xfe.pt2"])
def test_the_name_of_a_file_decides_nothing_and_may_be_any(name: str, file: bytes, tmp_path: Path) -> None:
    network, target = network_for(TARGETS[name]), TARGETS[name]
    if name == "pt2" and not file.endswith(b".pt2"):
        pytest.skip("PyTorch reads archives by their suffix")
    written = target.write(network, tmp_path / os.fsdecode(file)).path
    begins, *contains = target.marks
    content = written.read_bytes()
    assert content.startswith(begins)
    assert all(each in content for each in contains)
