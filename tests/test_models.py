"""The networks that come with the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qffs
from qffs.errors import InvalidArgument
from qffs.models import MODELS, build
from qffs.weights import load_weights, read_weights

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize("name", ["digits_net", "cifar_resnet20"])
def test_exact(name: str) -> None:
    torch.manual_seed(0)
    model = build(name).double()
    x = torch.rand(2, *((1, 8, 8) if name == "digits_net" else (3, 32, 32)), dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x]).eval()
    compared = qffs.verify(qann, qffs.to_spiking(qann), x)
    assert len(compared.layers) == {"digits_net": 5, "cifar_resnet20": 19}[name]


def test_unknown_name() -> None:
    with pytest.raises(InvalidArgument, match="there is no model 'resnet'; there are digits_net, cifar_resnet20"):
        build("resnet")


@pytest.mark.parametrize("depth", [20, 56])
def test_published_weights_fit(depth: int) -> None:
    path = SHARED / f"cifar10_resnet{depth}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    model = build(f"cifar_resnet{depth}")
    load_weights(model, read_weights(path), path.name)
    assert len(MODELS) >= 6
