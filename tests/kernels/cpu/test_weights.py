"""Weights as two digits, and levels found with them against those of the weights themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.kernels import fire
from helpers.slow import slow_but
from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler, memory_layout, neuron
from qffs.kernels.cpu.weights import LANES, PAIRED, Weights, divisible, in_digits
from qffs.kernels.layer import Projection
from qffs.method import FiringRule

RULE = FiringRule(precharge=0.5)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as two digits even where few neurons read them."""
    if not compiler.available(torch.float32, torch.device("cpu")):
        pytest.skip("nothing can be compiled here")
    monkeypatch.setattr(memory_layout, "NEAR", 0)


def put_together(found: Weights) -> Tensor:
    """``[blocks, rows, neurons]`` from digits."""
    rows, fine, unit, _ = found
    assert fine is not None
    assert unit is not None
    if rows.dim() > 3:
        rows = rows.transpose(-1, -2).flatten(2)
    return unit.view(len(rows), 1, -1) * (rows + fine.transpose(1, 2).flatten(2).double() / 2**15)


@pytest.mark.parametrize("block", [LANES, 2 * LANES, PAIRED, 2 * PAIRED])
def test_digits_are_the_weights(block: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 50, block) * torch.rand(block).exp2()
    rows[0, :, 3] = 0
    found = in_digits(rows)
    assert found.rows.dtype == torch.int16
    largest = rows.abs().amax(1, keepdim=True)
    assert bool(((put_together(found) - rows).abs() <= largest * 2**-29).all())
    assert found.fine is not None
    assert found.left is not None
    out = rows - put_together(found._replace(fine=torch.zeros_like(found.fine)))
    assert torch.allclose(found.left.view(3, block), out.square().mean(1).sqrt().float(), rtol=0.05)
    assert float(found.left[3]) == 0


def test_digits_lie_beside_the_weights_whatever_the_default_device() -> None:
    rows = torch.full((1, 9, LANES), 0.3)
    with torch.device("meta"):
        found = in_digits(rows)
    assert torch.equal(found.rows, in_digits(rows).rows)


def test_weights_of_few_bits_leave_nothing() -> None:
    torch.manual_seed(0)
    rows = torch.randint(-127, 128, (1, 200, LANES)) * 0.375
    found = in_digits(rows)
    assert torch.equal(put_together(found).float(), rows)
    assert not found.left.any()


def test_weights_of_sizes_far_apart_are_not_divided() -> None:
    usual = torch.randn(8, 40, 3, 3)
    assert divisible(usual)
    assert divisible(torch.zeros_like(usual))
    assert divisible(usual * (torch.rand_like(usual) < 0.05))
    assert not divisible(usual.double())
    assert not divisible(torch.randn(2, 2**16))
    for odd in (torch.inf, torch.nan, 1e5):
        kernel = usual.clone()
        kernel[5, 2, 1, 1] = odd
        assert not divisible(kernel)
    assert not divisible(usual * 1e-33)


def levels_of(layer: nn.Module, rows: SparseSteps, threshold: float, rule: FiringRule, dtype: torch.dtype) -> Tensor:
    """By the compiled function in float32, by the reference in float64."""
    source = Projection.of(SparseSteps(rows.values, rows.index, torch.tensor(0.5, dtype=dtype)), layer.to(dtype))
    assert source is not None
    charge, compiled = [0.0] * len(rows.index), dtype == torch.float32
    found = fire([source, source], None, charge, torch.tensor(threshold, dtype=dtype), 3, rule, compiled)
    return found.values[found.index]


def cut(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights no more exact than first digits."""
    rounded = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, bias=False)
    unit = (layer.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 2**15).log2().ceil().exp2()
    with torch.no_grad():
        rounded.weight.copy_((layer.weight / unit).round() * unit)
    return rounded


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_levels_are_those_of_both_digits_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "OPTIONS", [option for option in compiler.OPTIONS if not option.startswith("-march")])
    compiler.forget()
    try:
        for channels in (LANES, PAIRED):
            test_levels_are_those_of_both_digits(channels)
    finally:
        compiler.forget()


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("channels", slow_but([LANES, 2 * LANES, PAIRED, 2 * PAIRED, 70], 70))
def test_levels_are_those_of_both_digits(channels: int) -> None:
    """Of weights that are sums of few powers of two, so that neither way of adding them up rounds."""
    torch.manual_seed(0)
    layer = nn.Conv2d(12, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_((torch.randn_like(layer.weight) * 2**17).round() / 2**19)
        layer.weight[: channels - LANES] /= 8  # of other blocks other units
    height = 4096 // channels
    steps = torch.rand(20, 6, 12, height, 24) < 0.1
    rows = SparseSteps((steps.cumsum(0) % 3).clamp(0, 1).to(torch.uint8).flatten(0, 1), torch.arange(120).view(20, 6))
    wanted = levels_of(layer, rows, 0.75, RULE, torch.float64)
    assert torch.equal(levels_of(layer, rows, 0.75, RULE, torch.float32), wanted)
    assert int((levels_of(cut(layer), rows, 0.75, RULE, torch.float64) != wanted).sum()) > 10


@pytest.mark.usefixtures("digits")
def test_what_first_digits_leave_out_adds_up_over_windows() -> None:
    """Of units that spike at every step, in so many windows that their weights count 48 times."""
    torch.manual_seed(0)
    layer = nn.Conv2d(20, 32, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_((torch.randn_like(layer.weight).clamp(-1.9, 1.9) * 2**16).round() / 2**16)
    spiking = torch.rand(4, 20, 40, 40) < 0.5
    level = torch.arange(1, 49).view(-1, 1, 1, 1, 1) * spiking
    rows = SparseSteps(level.to(torch.uint8).flatten(0, 1), torch.arange(48 * 4).view(48, 4))
    rule = FiringRule(precharge=0.5, cap=False)
    wanted = levels_of(layer, rows, 4.0, rule, torch.float64)
    assert torch.equal(levels_of(layer, rows, 4.0, rule, torch.float32), wanted)
    assert int((levels_of(cut(layer), rows, 4.0, rule, torch.float64) != wanted).sum()) > 1000


@pytest.mark.usefixtures("digits")
def test_what_first_digits_leave_out_adds_up_over_trains() -> None:
    """Of units of one image, whose trains are taken apart, because all other images are silent.

    Where levels sum up to 2,400, potentials lie just below or above the threshold, but for errors that count each as
    often as its unit's level.
    """
    torch.manual_seed(0)
    layer = nn.Conv2d(600, 512, 1, bias=False)
    nn.init.constant_(layer.weight, 0.1)
    level = (torch.rand(8, 1, 600, 20, 20) < 0.5).cumsum(0)
    values = torch.cat([level.flatten(0, 1), torch.zeros(1, 600, 20, 20)]).to(torch.uint8)
    rows = SparseSteps(values, torch.full((8, 30), 8).index_put_((torch.arange(8), torch.tensor(7)), torch.arange(8)))
    assert int((level[-1].sum(1) == 2400).sum()) > 2
    for above, least in ((30, 2401), (-30, 2400)):
        found = levels_of(layer, rows, 2 * (0.1 * 2400 + above * 2**-18), RULE, torch.float32)
        wanted = (level.sum(2) >= least).cumsum(0).clamp_max(1)
        assert torch.equal(found[:, 7], wanted.to(torch.uint8).expand_as(found[:, 7]))


@pytest.mark.usefixtures("digits")
def test_a_large_weight_leaves_small_ones_exact() -> None:
    """A unit that never spikes with a weight 500 times as large as others."""
    torch.manual_seed(0)
    layer = nn.Conv2d(200, 64, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_((torch.randn_like(layer.weight) * 2**13).round() / 2**15)
        layer.weight[:, 7] = 120
    assert divisible(layer.weight)
    spiking = (torch.rand(8, 200, 40, 40) < 0.4).to(torch.uint8)
    spiking[:, 7] = 0
    rows = SparseSteps(spiking, torch.arange(4).expand(2, 4))
    wanted = levels_of(layer, rows, 1.0, RULE, torch.float64)
    assert torch.equal(levels_of(layer, rows, 1.0, RULE, torch.float32), wanted)
    assert len(wanted.unique()) > 1


@pytest.mark.usefixtures("digits")
def test_errors_of_equal_weights_do_not_add_up() -> None:
    """Of so many that the same error in each would be more than first digits are taken to leave out."""
    torch.manual_seed(0)
    layer = nn.Conv2d(600, 64, 1, bias=False)
    nn.init.constant_(layer.weight, 0.1)
    spiking = (torch.rand(4, 600, 40, 40) < 0.25).to(torch.uint8)
    rows = SparseSteps(spiking, torch.arange(4).expand(2, 4))
    near = 150 * 0.1 * 2  # of two sources, half a threshold each, on top of half a threshold
    for threshold in (near * (1 + 1e-5), near * (1 - 1e-5)):
        wanted = levels_of(layer, rows, threshold, RULE, torch.float64)
        assert torch.equal(levels_of(layer, rows, threshold, RULE, torch.float32), wanted)
        assert 0.3 < float(wanted[0].float().mean()) < 0.7


@pytest.mark.parametrize(("channels", "divided"), [(16, False), (32, False), (64, True), (512, True)])
def test_weights_that_few_neurons_read_stay_whole(channels: int, divided: bool) -> None:
    rows = SparseSteps(
        torch.zeros(1, channels, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64), torch.tensor(1.0)
    )
    source = Projection.of(rows, nn.Conv2d(channels, channels, 3, bias=False))
    assert source is not None
    assert neuron._digits([source], torch.float32, loses=False) is divided
    assert neuron._digits([rows], torch.float32, loses=False)
    assert not neuron._digits([source], torch.float32, loses=True)
