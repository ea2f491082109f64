"""Pooling of levels against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qffs.functional.max_pool import max_pool, window

MODULES = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(3, 1, 1),
    nn.MaxPool2d(2, 3, 1),
    nn.MaxPool2d((3, 2), (2, 1), (1, 0)),
    nn.MaxPool2d(5, 1, 2),
    nn.MaxPool2d(3, 4, 1),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.extra_repr())
@pytest.mark.parametrize("size", [(9, 11), (7, 7), (5, 32)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_largest_level_of_each_window(module: nn.MaxPool2d, size: tuple[int, int], channels_last: bool) -> None:
    torch.manual_seed(0)
    levels = torch.randint(0, 5, (3, 4, *size), dtype=torch.uint8)
    if channels_last:
        levels = levels.contiguous(memory_format=torch.channels_last)
    given = window(module)
    assert given is not None
    pooled = max_pool(levels, *given)
    assert pooled.dtype == torch.uint8
    assert torch.equal(pooled.float(), module(levels.float()))
    assert pooled.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_other_dimensions() -> None:
    torch.manual_seed(0)
    for module, shape in ((nn.MaxPool1d(3, 2, 1), (2, 3, 10)), (nn.MaxPool3d(2), (2, 3, 4, 5, 6))):
        levels = torch.randint(0, 5, shape, dtype=torch.uint8)
        given = window(module)
        assert given is not None
        assert torch.equal(max_pool(levels, *given).float(), module(levels.float()))


@pytest.mark.parametrize(
    "module",
    [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, return_indices=True), nn.ReLU()],
    ids=str,
)
def test_others_are_left_to_pytorch(module: nn.Module) -> None:
    assert window(module) is None
