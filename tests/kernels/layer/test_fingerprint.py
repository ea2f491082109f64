"""Every change of a tensor is seen, whatever made it, in any type and layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qffs
from qffs.kernels.layer import WORDS, Fingerprint, digest, weighted


def _flip_data(w: Tensor) -> None:
    w.data.copy_(w.data.flip(0))


def _swap_in_numpy(w: Tensor) -> None:
    array = w.detach().numpy()
    array[[0, 1]] = array[[1, 0]]


def _negate_two(w: Tensor) -> None:
    w.data[0, 0], w.data[0, 1] = -w.data[0, 0], -w.data[0, 1]


CHANGES: dict[str, Callable[[Tensor], None]] = {
    "rows flipped through .data": _flip_data,
    "rows swapped through NumPy": _swap_in_numpy,
    "signs": _negate_two,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_changes_that_keep_the_sum_are_seen(change: Callable[[Tensor], None], inference: bool) -> None:
    with torch.inference_mode(inference):
        w = torch.tensor([[1.0, -1.0, 0.5], [0.25, 0.125, -0.375]])
        before = Fingerprint.of(w)
        total = w.sum().item()
        assert before == Fingerprint.of(w)
        change(w)
        assert w.sum().item() == total
        assert before != Fingerprint.of(w)


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool]
TYPES += [torch.complex64, torch.complex128, torch.int64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(dtype: torch.dtype) -> None:
    x = torch.tensor([1, 0, 1, 1, 0]).to(dtype)
    assert digest(x) == digest(x.clone())
    assert digest(x) != digest(torch.tensor([0, 1, 1, 1, 0]).to(dtype))
    assert x.element_size() in WORDS


def test_every_layout_without_a_copy_where_it_is_dense() -> None:
    x = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert digest(last) == digest(last.permute(0, 2, 3, 1).contiguous())
    assert Fingerprint.of(x) != Fingerprint.of(last)
    assert digest(x[:, ::2]) == digest(x[:, ::2].contiguous())
    for empty in (torch.empty(0), torch.empty(3, 0)):
        assert digest(empty) == 0
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(-1.0))


def test_other_memory_type_or_shape_is_another_tensor() -> None:
    x = torch.zeros(4)
    assert Fingerprint.of(x) != Fingerprint.of(x.clone())
    assert Fingerprint.of(x) != Fingerprint.of(x.view(2, 2))
    assert Fingerprint.of(x) != Fingerprint.of(x.view(torch.int32))
    assert Fingerprint.of(x) != x
    nan = torch.tensor([float("nan")])
    assert Fingerprint.of(nan) == Fingerprint.of(nan)


def test_a_conjugate_and_a_negative_view_have_their_own_hash() -> None:
    x = torch.randn(3, 4, dtype=torch.complex64)
    assert digest(x.conj()) == digest(x.conj().resolve_conj()) != digest(x)
    assert digest(x.conj().imag) == digest(-x.imag)


def test_the_weighted_sum_of_other_devices_sees_what_a_sum_does_not() -> None:
    bits = torch.randn(4096).view(torch.int32)
    plain = weighted(bits)
    assert plain == weighted(bits.clone())
    seen = {plain}
    for first, second in torch.randint(4096, (200, 2), generator=torch.Generator().manual_seed(0)).tolist():
        swapped, negated = bits.clone(), bits.clone()
        swapped[[first, second]] = bits[[second, first]]
        negated[[first, second]] ^= -(2**31)
        seen |= {weighted(swapped), weighted(negated)} if first != second else set()
    assert len(seen) > 390  # each pair gives two new sums, but for pairs drawn twice


def test_a_simulation_uses_weights_changed_behind_pytorch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(16, 6)
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))
    for options in ({}, {"precision": "exact"}, {"backend": "pytorch"}):
        before = snn(x, steps=8, **options)
        _flip_data(snn.graph.get_submodule("2").weight)
        after = snn(x, steps=8, **options)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after.float(), snn(x, steps=8, backend="reference"), atol=1e-5, rtol=1e-5)
