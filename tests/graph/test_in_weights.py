"""Batch norm in the weights: the same outputs and gradients, from the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import qffs
from helpers.problems import randomize
from qffs.graph.blocks import blocks, joined, part
from qffs.graph.in_weights import LayerAndNorm, put_norms_into_weights

LAYERS = [
    (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (3, 4, 5, 5)),
    (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6, affine=False), (3, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6), (3, 4, 5, 5)),
    (nn.Linear(4, 6), nn.BatchNorm1d(6), (3, 4)),
]


class Twice(nn.Module):
    """One layer that two batch norms read, and one whose result is read again after its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.conv(x)))
        x = torch.relu(self.norms[1](self.conv(x)))
        y = self.other(x)
        return torch.relu(self.norms[2](y) + y)


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS)
def test_outputs_and_gradients_are_those_of_both_modules(
    layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm, shape: tuple[int, ...]
) -> None:
    randomize(nn.ModuleList([layer, norm]), 0).double()
    x = torch.randn(shape, dtype=torch.float64)
    apart = nn.ModuleList([copy.deepcopy(layer), copy.deepcopy(norm)])
    together = LayerAndNorm(layer, norm)
    outputs = together(x), apart[1](apart[0](x))
    for output in outputs:
        (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    torch.testing.assert_close(*outputs)
    gradients = [each.grad for each in together.parameters()]
    assert len(gradients) == len(list(apart.parameters()))
    for gradient, expected in zip(gradients, apart.parameters(), strict=True):
        torch.testing.assert_close(gradient, expected.grad)


def test_a_network_computes_the_same_with_its_own_parameters() -> None:
    x = torch.randn(4, 3, 6, 6)
    qann = qffs.calibrate(qffs.quantize(randomize(Twice(), 0), 3, example=x), [x]).eval()
    whole = part(qann, joined(blocks(qann)))
    expected = whole(x)[0]
    put_norms_into_weights(whole)
    torch.testing.assert_close(whole(x)[0], expected)
    norms = [module for module in whole.modules() if isinstance(module, LayerAndNorm)]
    assert len(norms) == 2  # the last batch norm stays: the result of its layer is read elsewhere too
    assert norms[0].layer is norms[1].layer is qann.conv
    assert set(whole.parameters()) == set(qann.parameters())
    torch.testing.assert_close(qann(x), expected)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU()),
    ],
)
def test_other_layers_stay(network: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 6)
    qann = qffs.calibrate(qffs.quantize(network.eval(), 3, example=x), [x]).eval()
    whole = part(qann, joined(blocks(qann)))
    code = whole.code
    put_norms_into_weights(whole)
    assert whole.code == code
