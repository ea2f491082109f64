"""Values of many images: in batches, in memory or in files, in the layout of the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument
from qffs.train import values as module
from qffs.train.values import BATCH, laid_out, values


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x.flatten(1).sum(1)


@pytest.mark.parametrize("limit", [0, 2**29])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_are_the_outputs_of_all_images(
    limit: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", limit)
    x = torch.rand(2 * BATCH + 3, 3, 4, 5).contiguous(memory_format=memory_format)
    doubled, total = values(Pair(), (x,))
    assert torch.equal(doubled, 2 * x)
    assert torch.equal(total, x.flatten(1).sum(1))
    assert doubled.is_contiguous(memory_format=memory_format)


def test_laid_out_follows_the_other_tensor() -> None:
    x, last = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert laid_out(x, last).stride() == last.stride()
    assert torch.equal(laid_out(x, last), x)
    assert laid_out(x, x) is x
    assert laid_out(torch.rand(2, 3), torch.rand(2, 3)).is_contiguous()


def test_images_in_another_dimension_are_refused() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x.movedim(0, 1),)

    with pytest.raises(InvalidArgument, match="one row per image, in dimension 0"):
        values(Turned(), (torch.rand(3, 5),))
