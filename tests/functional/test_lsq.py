"""The quantizer against its equation, its gradients against their rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qffs.functional.lsq import along_channels, first_step_size, level, quantize, smallest_step_size, total

steps = st.floats(1e-3, 1e3)
values = st.floats(-1e4, 1e4)
highest = st.integers(1, 255)


@given(values, steps, highest)
def test_equation(x: float, s: float, n: int) -> None:
    expected = min(max(math.floor(x / s + 0.5), 0), n)
    assert level(torch.tensor(x, dtype=torch.float64), torch.tensor(s, dtype=torch.float64), n) == expected
    assert quantize(torch.tensor([[x]], dtype=torch.float64), torch.tensor(s, dtype=torch.float64), n) == s * expected


@given(st.integers(0, 6), st.integers(-8, 8))
def test_ties_are_rounded_upward(k: int, exponent: int) -> None:
    s = 2.0**exponent
    assert level(torch.tensor((k + 0.5) * s), torch.tensor(s), 7) == k + 1


@given(values, steps, highest)
def test_quantized_values_are_fixed_points(x: float, s: float, n: int) -> None:
    step_size = torch.tensor(s, dtype=torch.float64)
    once = quantize(torch.tensor([[x]], dtype=torch.float64), step_size, n)
    assert torch.equal(quantize(once, step_size, n), once)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_gradients(n: int) -> None:
    """Each rule of LSQ on its range, element by element, times 1 / sqrt(N n) with N = 5 activations an image."""
    v = torch.tensor([[-0.7, 0.0, 0.3, n - 0.4, n + 0.6], [-3.0, 0.5, 0.9, n, 2.0 * n]], dtype=torch.float64)
    for row in range(len(v)):
        for column in range(v.shape[1]):
            x = (v * 0.25).clone().requires_grad_()
            s = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
            quantize(x, s, n)[row, column].backward()
            ratio = v[row, column].item()
            inside = 0 < ratio < n
            of_step = math.floor(ratio + 0.5) - ratio if inside else n if ratio >= n else 0
            assert x.grad is not None
            assert s.grad is not None
            assert x.grad[row, column] == float(inside)
            assert x.grad.count_nonzero() == int(inside)
            assert s.grad.item() == pytest.approx(of_step / math.sqrt(5 * n), abs=1e-12)


def test_gradient_scale_leaves_the_batch_out() -> None:
    """With a mean over the batch as loss, the same images twice give the same gradient."""
    x = torch.randn(4, 10, dtype=torch.float64)
    gradients = []
    for batch in (x, torch.cat([x, x])):
        s = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        quantize(batch, s, 3).sum(1).mean().backward()
        gradients.append(s.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4).to(dtype).requires_grad_()
    s = torch.tensor(0.5, requires_grad=True)
    result = quantize(x, s, 3)
    result.float().sum().backward()
    assert result.dtype == dtype
    assert x.grad is not None
    assert s.grad is not None
    assert x.grad.dtype == dtype
    assert s.grad.dtype == torch.float32


@pytest.mark.parametrize("s", [0.0, -1.0])
def test_a_step_size_at_or_below_zero_stays_finite(s: float) -> None:
    x, step_size = torch.randn(2, 3, requires_grad=True), torch.tensor(s, requires_grad=True)
    result = quantize(x, step_size, 3)
    result.sum().backward()
    assert result.max() <= 3 * smallest_step_size(torch.float32)
    assert step_size.grad is not None
    assert torch.isfinite(step_size.grad)


@given(st.lists(values, min_size=1, max_size=20), highest)
def test_first_step_size(x: list[float], n: int) -> None:
    mean = torch.tensor(x, dtype=torch.float64).abs().mean()
    assert first_step_size(mean, n).item() * math.sqrt(n) == pytest.approx(2 * sum(map(abs, x)) / len(x))


# A step size a channel

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=4)


@given(shapes, highest, st.integers(0, 10**6), st.sampled_from([0.5, 0.3]))
def test_each_channel_is_a_quantizer_of_its_own(shape: list[int], n: int, seed: int, offset: float) -> None:
    """Values, levels and both gradients, in any number of dimensions, are those of a scalar step size a channel."""
    generator = torch.Generator().manual_seed(seed)
    x, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    s = (3 / n * torch.rand(shape[1], generator=generator, dtype=torch.float64)).requires_grad_()
    x.requires_grad_()
    result = quantize(x, s, n, offset)
    of_x, of_s = torch.autograd.grad((result * upstream).sum(), (x, s))
    assert of_s.shape == s.shape
    for channel in range(shape[1]):
        part = x.detach()[:, channel : channel + 1].requires_grad_()
        alone = s.detach()[channel].clone().requires_grad_()
        expected = quantize(part, alone, n, offset)
        of_part, of_alone = torch.autograd.grad((expected * upstream[:, channel : channel + 1]).sum(), (part, alone))
        assert torch.equal(result[:, channel : channel + 1], expected)
        assert torch.equal(level(x, s, n, offset)[:, channel : channel + 1], level(part, alone, n, offset))
        assert torch.equal(of_x[:, channel : channel + 1], of_part)
        torch.testing.assert_close(of_s[channel], of_alone, rtol=1e-12, atol=1e-12)


def test_the_sum_is_over_what_shares_a_step_size() -> None:
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    assert total(x, torch.tensor(1.0), torch.float64) == x.sum()
    by_channel = total(x, torch.ones(2), torch.float64)
    expected = torch.stack([x[:, channel].sum() for channel in range(2)])
    torch.testing.assert_close(by_channel, expected, rtol=1e-12, atol=1e-12)
    assert total(x.bfloat16(), torch.ones(2), torch.float32).dtype == torch.float32


def test_another_number_of_channels_is_not_broadcast() -> None:
    for channels in (1, 2, 4):
        with pytest.raises(RuntimeError):
            quantize(torch.ones(2, channels, 5), torch.ones(3), 3)
        with pytest.raises(RuntimeError):
            along_channels(torch.ones(3), (2, channels, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_by_channel(dtype: torch.dtype) -> None:
    x, s = torch.randn(3, 4, 2).to(dtype).requires_grad_(), torch.full((4,), 0.5, requires_grad=True)
    result = quantize(x, s, 3)
    of_x, of_s = torch.autograd.grad(result.float().sum(), (x, s))
    assert result.dtype == of_x.dtype == dtype
    assert of_s.dtype == torch.float32


def test_one_channel_at_or_below_zero_leaves_the_others_alone() -> None:
    x, s = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    result = quantize(x, s, 3)
    assert result[:, 1:].max() <= 3 * smallest_step_size(torch.float64)
    assert torch.equal(result[:, :1], quantize(x[:, :1], s[0], 3))


def test_at_the_end_of_the_range_the_gradient_of_s_is_n_however_the_quotient_is_rounded() -> None:
    x, s = torch.tensor([[72.0]]), torch.tensor(0.3, requires_grad=True)
    assert x / s < 240 <= x.double() / 0.3 + 1e-12  # float32 rounds 72 / 0.3 down, and 240 * 0.3 to 72
    quantize(x, s, 240, 0.0).sum().backward()
    assert s.grad is not None
    assert s.grad.item() == pytest.approx(240 / math.sqrt(240))
