"""Rows: what repeats over time is held once, and nothing is lost."""

from __future__ import annotations

import pytest
import torch

from qffs.functional.sparse_steps import SparseSteps, align, changed


def dense_and_changes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels [T, B, 3] that change at random steps, from 0 on."""
    generator = torch.Generator().manual_seed(seed)
    changes = torch.rand(6, 4, generator=generator) < 0.4
    levels = (changes.cumsum(0)[..., None] * torch.tensor([1, 2, 3])).to(torch.uint8)
    return levels, changes


@pytest.mark.parametrize("seed", range(5))
def test_only_what_changes_is_kept_and_all_is_given_back(seed: int) -> None:
    levels, changes = dense_and_changes(seed)
    rows = changed(levels, changes, torch.tensor(0.5))
    kept = rows.used()
    first = int((changes[0] == 0).sum())  # images of zeros, until they change
    assert len(kept.values) == int(changes.sum()) + first
    for each in (rows, kept, rows.numbers):
        assert torch.equal(each.dense().view(6, 4, 3), levels * 0.5)
        assert each.empty_like.shape == (0, 3)
        assert each.empty_like.dtype == torch.float32


def test_what_does_not_change_is_not_looked_at() -> None:
    levels = torch.tensor([[[1, 2]], [[99, 99]], [[3, 4]]], dtype=torch.uint8)
    rows = changed(levels, torch.tensor([[True], [False], [True]]))
    assert rows.dense().tolist() == [[1, 2], [1, 2], [3, 4]]
    assert rows.used().values.tolist() == [[1, 2], [3, 4]]


def test_where_nothing_ever_changes_all_is_zero() -> None:
    rows = changed(torch.zeros(3, 2, 5, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.bool))
    assert len(rows.used().values) == 2
    assert torch.equal(rows.dense(), torch.zeros(6, 5, dtype=torch.uint8))


def test_where_all_changes_nothing_is_copied() -> None:
    levels = torch.arange(1, 13, dtype=torch.uint8).view(3, 2, 2)
    rows = changed(levels, torch.ones(3, 2, dtype=torch.bool))
    assert rows.used().values.data_ptr() == levels.data_ptr()
    assert torch.equal(rows.dense().view(3, 2, 2), levels)


@pytest.mark.parametrize("seed", range(5))
def test_several_signals_are_joined_where_any_of_them_differs(seed: int) -> None:
    parts = []
    for number in range(3):
        levels, changes = dense_and_changes(10 * seed + number)
        parts.append(changed(levels, changes, torch.tensor(0.25 * (number + 1))))
    values, index = align(parts)
    assert len({len(value) for value in values}) == 1
    assert len(values[0]) < index.numel()
    for part, value in zip(parts, values, strict=True):
        assert torch.equal(value[index.flatten()], part.dense())
    distinct = torch.stack([part.index.flatten() for part in parts], 1).unique(dim=0)
    assert len(values[0]) == len(distinct)


def test_channels_last_stay_last() -> None:
    values = torch.rand(5, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    index = torch.tensor([[0, 1], [2, 1], [4, 3]])
    dense = SparseSteps(values, index).dense()
    assert dense.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dense, values[index.flatten()])
    rows = changed(dense.unflatten(0, (3, 2)), torch.tensor([[True, True], [True, False], [False, True]]))
    assert rows.values.is_contiguous(memory_format=torch.channels_last)
    (one, other), _ = align([rows, SparseSteps(values, index)])
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert other.is_contiguous(memory_format=torch.channels_last)


def test_signals_of_one_place_are_taken_as_they_are() -> None:
    rows = SparseSteps.of(torch.rand(6, 2), 3)
    values, index = align([rows, SparseSteps(rows.values, rows.index.clone())])
    assert index is rows.index
    assert all(value is rows.values for value in values)


def test_many_signals_are_joined_too() -> None:
    parts = [SparseSteps.of(torch.rand(400, 2), 8) for _ in range(3)]
    shuffled = [SparseSteps(torch.rand(400, 2), torch.randint(0, 400, (8, 50))) for _ in range(20)]
    values, index = align([*parts, *shuffled])
    for part, value in zip([*parts, *shuffled], values, strict=True):
        assert torch.equal(value[index.flatten()], part.dense())
