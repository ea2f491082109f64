"""What every target asks of a network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import qffs
from helpers.problems import calibrated
from qffs.errors import Diverged
from qffs.export import TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_target_takes_a_weight_that_is_nan(name: str, tmp_path: Path) -> None:
    target, x = TARGETS[name], torch.rand(2, 3)
    qann = calibrated(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), x)
    network = qann if "qann" in target.kinds else qffs.to_spiking(qann)
    next(tensor for key, tensor in network.state_dict().items() if key.endswith("2.weight"))[0, 0] = math.nan
    with pytest.raises(Diverged, match=r"first in (graph\.)?2\.weight"):
        target.write(network, tmp_path / "file.pt2")
    assert list(tmp_path.iterdir()) == []
