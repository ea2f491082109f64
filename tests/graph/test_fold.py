"""Folding keeps the function and leaves operators that map 0 to 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from helpers.problems import images, network, randomize
from qffs.graph.classify import classify, write_sites
from qffs.graph.fold import fold
from qffs.graph.trace.trace import trace


def folded(model: nn.Module, x: Tensor) -> fx.GraphModule:
    traced = trace(model, x)
    write_sites(classify(traced))
    fold(traced)
    return traced


PAIRS = [
    (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (3, 7)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(6), (4, 7, 5)),
    (nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3, padding_mode="circular"), nn.BatchNorm2d(3), (3, 6, 6)),
    (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, affine=False), (2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.BatchNorm1d(6), (4, 5)),
    (nn.ConvTranspose2d(3, 5, 2, stride=2, bias=False), nn.BatchNorm2d(5, eps=0.1), (3, 4, 4)),
    (nn.Linear(3, 4), nn.BatchNorm1d(4), (3,)),
    (nn.Linear(3, 4), nn.BatchNorm1d(5), (5, 3)),  # here batch norm's channels are not the linear layer's outputs
]


@pytest.mark.parametrize(("layer", "norm", "shape"), PAIRS)
def test_function_is_kept(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    model = randomize(nn.Sequential(layer, norm), 0).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    result = folded(model, x)
    torch.testing.assert_close(result(x), model(x), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in result.modules())


def test_every_linear_operator_maps_zero_to_zero() -> None:
    """All that is left of the constants are sums of buffers; with those at zero the whole network maps 0 to 0."""
    result = folded(network(), images())
    for _, buffer in result.named_buffers():
        buffer.zero_()
    assert not result(torch.zeros_like(images())).any()


def test_batch_norm_on_a_layer_that_is_called_twice() -> None:
    """One convolution under two batch norms is not scaled twice, as tools that fold by position do."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.conv(torch.relu(self.first(self.conv(x))))) + self.conv(x)

    model = randomize(Shared(), 1).double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(model, x)(x), model(x), rtol=1e-12, atol=1e-12)


def test_batch_norm_far_from_a_convolution_and_called_twice() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(torch.relu(self.norm(y))) + y  # y is read twice: nothing may be folded into conv

    model = randomize(Early(), 2).double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(model, x)(x), model(x), rtol=1e-12, atol=1e-12)


def test_dropout_and_identity_vanish() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Identity(), nn.Dropout1d()).eval()
    result = folded(model, torch.zeros(1, 2))
    assert [type(module) for module in result.children()] == [nn.Linear]
