"""Values of many images: in batches, in memory or in files, in the layout of the outputs."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument
from qffs.train import values as module
from qffs.train.values import BATCH, FEWEST, NUMBERS, batch_size, laid_out, sample, values


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


def test_a_batch_has_fewer_large_images() -> None:
    small, large, huge = (torch.empty(1, numbers) for numbers in (8, NUMBERS // 64, NUMBERS))
    assert [batch_size((x,)) for x in (small, large, huge)] == [BATCH, 64, FEWEST]
    assert batch_size((large, large)) == 32
    assert batch_size((small,), 64) == 64


def test_a_sample_is_the_same_in_every_call_and_has_the_rows_of_all_inputs() -> None:
    x = torch.arange(100)
    first, second = sample((x, 2 * x), 10)
    assert len(first.unique()) == 10
    assert torch.equal(second, 2 * first)
    assert torch.equal(sample((x,), 10)[0], first)
    assert sample((x,), 100)[0] is x


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system does not reserve space for a file")
def test_values_that_do_not_fit_on_the_disk_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(InvalidArgument, match=r"GiB of values do not fit into .*: No space left on device; set TMPDIR"):
        values(Pair(), (torch.rand(3, 5),))
