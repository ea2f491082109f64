"""Networks whose activations differ in how fine they are: by path, by channel, or not quantized at all."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import qffs
from helpers.problems import calibrated, images, losses_of_training, network
from qffs.errors import CheckpointError, InvalidArgument, NotConvertible, NothingToQuantize
from qffs.method import Levels
from qffs.models.checkpoint import load, save
from qffs.nn.quantizer import FullPrecision, Quantizer

PATHS = ("relu", "relu_2", "relu_3", "relu_4")  # of `network`
MIXED = {"relu": "full", "relu_[23]": 3, "*": 1}
seeds = st.integers(0, 10**6)
few = settings(max_examples=15)


def quantizers(qann: nn.Module) -> dict[str, Quantizer]:
    return {path: module for path, module in qann.named_modules() if isinstance(module, Quantizer)}


def exact(qann: fx.GraphModule, x: Tensor, charge: Any = None, chunk: int = 2) -> None:
    """The laws of tests/spiking/test_network.py: every count is its level, the outputs are equal, step by step too."""
    snn = qffs.to_spiking(qann, charge)
    compared = qffs.verify(qann, snn, x, tie_tolerance=0)
    assert [path for path, _ in compared.layers] == list(quantizers(qann))
    assert compared.deviation < 1e-9
    whole, parts = (snn.run(x, steps=compared.steps, chunk=size) for size in (None, chunk))
    torch.testing.assert_close(whole[0][-1], qann(x).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=1e-12)
    for path in quantizers(qann):
        assert torch.equal(parts[1].neurons[path].sent, whole[1].neurons[path].sent)


# Levels by path


choice = st.sampled_from([1, 2, 3, 5, 6, "full"])


@few
@given(seeds, st.tuples(choice, choice, choice, choice).filter(lambda c: set(c) != {"full"}), st.booleans(), seeds)
def test_lossless(seed: int, choices: tuple[Any, ...], per_channel: bool, charge: int) -> None:
    """Whatever the levels of each layer, in full precision or not, with a step size a tensor or a channel."""
    x, levels = images(seed), dict(zip(PATHS, choices, strict=True))
    qann = calibrated(network(seed), x, levels=levels, per_channel=per_channel)
    assert {path: quantizer.highest for path, quantizer in quantizers(qann).items()} == {
        path: highest for path, highest in levels.items() if highest != "full"
    }
    exact(qann, x, [None, 4, (0.0, 1.0)][charge % 3], chunk=1 + charge % 5)


def test_the_first_pattern_decides_and_the_output_has_levels_of_its_own() -> None:
    x = images()
    qann = calibrated(network(), x, MIXED, Levels(5))
    highest = {path: quantizer.highest for path, quantizer in quantizers(qann).items()}
    assert highest == {"relu_2": 7, "relu_3": 7, "relu_4": 1, "output_quantizer": 5}
    assert qffs.to_spiking(qann).schedule.steps == 7  # of the finest hidden layer
    exact(qann, x)


@pytest.mark.parametrize("highest", [1, 2, 5, 6])
def test_any_number_of_levels(highest: int) -> None:
    """Levels of any highest number, hidden and at the output; D is the same number."""
    x = images()
    qann = calibrated(network(), x, output=Levels(highest), levels=highest)
    assert {quantizer.highest for quantizer in quantizers(qann).values()} == {highest}
    assert qffs.to_spiking(qann).schedule.steps == highest
    quantizer = quantizers(qann)["relu"]
    counts = quantizer(10 * x) / quantizer.step_size
    assert counts.round().unique().tolist() == list(range(highest + 1))
    exact(qann, x)


def test_bits_and_their_highest_level_give_the_same_network() -> None:
    x = images()
    by_bits, by_levels = calibrated(network(), x, 3, 2), calibrated(network(), x, levels=7, output=Levels(3))
    assert torch.equal(by_bits(x), by_levels(x))
    assert torch.equal(calibrated(network(), x)(x), calibrated(network(), x, 2)(x))


def test_an_output_that_is_a_relus_takes_the_outputs_levels() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU6()).double()
    x = torch.randn(16, 3, dtype=torch.float64)
    for hidden in ({"1": 1, "3": 4}, {"1": 1, "3": "full"}):
        qann = calibrated(model, x, hidden, Levels(2))
        assert [quantizer.highest for quantizer in quantizers(qann).values()] == [1, 2]
        assert qann.get_submodule("3").clip == 6
        exact(qann, x)


# Full precision


def test_an_activation_in_full_precision_is_its_relu_to_the_last_bit() -> None:
    """Clipped or not, before the first neuron, between neurons, at the end; and it is still there after conversion."""
    layers = [nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)]
    model = nn.Sequential(*layers, nn.Hardtanh(0, 0.5)).double()
    x = 9 * torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    qann = calibrated(model, x, {"3": 2, "*": "full"})
    reference = copy.deepcopy(model)
    reference[3] = qann.get_submodule("3")
    assert torch.equal(qann(x), reference(x))
    snn = qffs.to_spiking(qann)
    assert [path for path, _ in snn.neurons()] == ["3"]
    clips = {path: m.clip for path, m in snn.graph.named_modules() if isinstance(m, FullPrecision)}
    assert clips == {"1": 6.0, "5": None, "7": 0.5}
    exact(qann, x)


def test_full_precision_learns_as_the_relu_did() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Hardtanh(0, 1), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x = torch.randn(32, 6, dtype=torch.float64)
    qann = calibrated(model, x, {"1": "full", "*": 2})
    reference = copy.deepcopy(model)
    reference[3] = copy.deepcopy(qann.get_submodule("3"))
    for each in (qann, reference):
        each(x).square().sum().backward()
    for name, parameter in reference.named_parameters():
        assert torch.equal(qann.get_parameter(name).grad, parameter.grad)


def test_strict_and_full_precision_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match='strict=True refuses "full"'):
        qffs.quantize(network(), MIXED, example=images(), strict=True)
    qffs.quantize(network(), {"relu": 3, "*": 1}, example=images(), strict=True)


def test_all_in_full_precision_is_nothing_to_quantize() -> None:
    with pytest.raises(NothingToQuantize, match='every activation is to stay "full"'):
        qffs.quantize(network(), {"*": "full"}, example=images())
    x = images()
    qann = calibrated(network(), x, {"*": "full"}, 3)  # but the output alone is something
    assert list(quantizers(qann)) == ["output_quantizer"]
    assert qffs.to_spiking(qann).schedule.steps == 7
    exact(qann, x)


# What cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": {"relu_9": 3, "*": 2}}, r"'relu_9' matches no activation that is to be quantized; there are relu_"),
        ({"bits": {"relu*": 3, "relu_2": 2}}, r"'relu_2' decides nothing: 'relu\*' before it matches relu_2"),
        ({"bits": {"relu_*": 3}}, 'no pattern matches relu: end with "\\*"'),
        ({"bits": {}}, "bits by pattern must map at least one text"),
        ({"bits": {"*": 9}}, r"for '\*', bits must be a whole number from 1 to 8, not 9"),
        ({"bits": 2, "levels": 3}, "give bits, or levels, but not both"),
        ({"levels": 0}, "the highest level must be a whole number of at least 1, not 0"),
        ({"output": "digital"}, 'output must be "analog", a number of bits from 1 to 8, or Levels'),
    ],
    ids=str,
)
def test_impossible_precisions(options: dict[str, Any], message: str) -> None:
    model, x = network(), images()
    before = repr(model)
    with pytest.raises(InvalidArgument, match=message):
        qffs.quantize(model, example=x, **options)
    assert repr(model) == before


def test_what_cannot_be_converted_is_said_before_what_no_pattern_matches() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(NotConvertible, match="BatchNorm1d at 1"):
        qffs.quantize(model, {"nothing": 1}, example=torch.zeros(4, 2))


# A step size a channel


def spread(x: Tensor) -> Tensor:
    """The same images with channels of very different sizes."""
    return x * torch.tensor([0.05, 20.0], dtype=x.dtype).view(-1, 1, 1)


@few
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from([None, 2, 5, (0.5, 0.25, 0.25), (0.0, 1.0)]))
def test_lossless_by_channel(seed: int, blocks: int, bits: int, charge: Any) -> None:
    """The theorem channel by channel, the output's too, on random residual networks; step-wise is layer-wise."""
    x = spread(images(seed))
    qann = calibrated(network(seed, blocks=blocks), x, bits, Levels(2), per_channel=True)
    sizes = {path: tuple(quantizer.step_size.shape) for path, quantizer in quantizers(qann).items()}
    assert sizes == {**dict.fromkeys(sizes, (6,)), "output_quantizer": (4,)}
    assert all(quantizer.step_size.unique().numel() > 1 for quantizer in quantizers(qann).values())
    exact(qann, x, charge, chunk=1 + seed % 4)


def test_a_channel_fires_by_its_own_threshold() -> None:
    """What a layer sends are multiples of the step size of each channel, and of no other's."""
    torch.manual_seed(0)
    x = spread(images(count=8))
    qann = calibrated(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.MaxPool2d(2)).double(), x, 3, per_channel=True)
    total, step_size = qffs.to_spiking(qann)(x, steps=20)[-1], qann.get_submodule("1").step_size.detach()
    for channel in range(3):
        counts = total[:, channel] / step_size[channel]
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
        assert counts.max() > 1


def test_activations_of_other_dimensions() -> None:
    """Dimension 1 of a convolution is the channel; an activation without one has a single step size."""

    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(2, 3, 3, padding=1), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.linear(torch.relu(self.conv(x))))  # [B, 3, 5], then [B, 3, 4]
            return torch.relu(x.flatten(1).sum(1) - 1)  # [B]

    torch.manual_seed(0)
    x = torch.randn(16, 2, 5, dtype=torch.float64)
    qann = calibrated(Shapes().double(), x, per_channel=True)
    assert [tuple(quantizer.step_size.shape) for quantizer in quantizers(qann).values()] == [(3,), (), ()]
    exact(qann, x)


def test_images_are_no_channels() -> None:
    """Where dimension 1 holds the batch, as in code that puts time first, an activation has a single step size."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.linear(x.transpose(0, 1))).transpose(0, 1)  # [L, B, 5] inside

    x = torch.randn(6, 3, 4, dtype=torch.float64)
    qann = calibrated(TimeFirst().double(), x, per_channel=True)
    assert [tuple(quantizer.step_size.shape) for quantizer in quantizers(qann).values()] == [()]
    for batch in (x, x[:2]):
        qffs.verify(qann, qffs.to_spiking(qann), batch, tie_tolerance=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    x = images(dtype=dtype, count=16)
    qann = calibrated(network(dtype=dtype), x, MIXED, per_channel=True)
    assert {tensor.dtype for tensor in qann.parameters()} == {dtype}
    snn = qffs.to_spiking(qann)
    readout, expected = snn(x, steps=24, backend="reference")[-1], qann(x)
    if dtype == torch.bfloat16:  # a sum within rounding of a tie may fall either way: most images, not all
        assert (readout.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.8
    else:
        torch.testing.assert_close(readout, expected.detach(), rtol=1e-4, atol=1e-4)


def test_it_trains_by_channel_and_stays_exact() -> None:
    torch.manual_seed(0)
    x, labels = images(count=32), torch.arange(32) % 4
    qann = qffs.quantize(network().train(), example=x, per_channel=True)
    losses = losses_of_training(qann, x, labels)
    assert losses[-1] < losses[0] / 2
    exact(qann.eval(), x)


# Checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
def test_checkpoints_come_back_bit_for_bit(dtype: torch.dtype, per_channel: bool, tmp_path: Path) -> None:
    x = images(dtype=dtype)
    qann = calibrated(network(dtype=dtype), x, MIXED, Levels(5), per_channel=per_channel)
    snn = qffs.to_spiking(qann)
    again, spiking = (load(save(each, tmp_path / name)).network for name, each in (("q", qann), ("s", snn)))
    for saved, loaded in ((qann, again), (snn, spiking)):
        own, theirs = (
            {path: str(m) for path, m in each.named_modules() if not list(m.children())} for each in (saved, loaded)
        )
        assert own == theirs
        own, theirs = saved.state_dict(), loaded.state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) and own[name].dtype == theirs[name].dtype for name in own)
    assert torch.equal(again(x), qann(x))
    assert torch.equal(spiking(x, steps=9, backend="reference"), snn(x, steps=9, backend="reference"))
    assert torch.equal(qffs.to_spiking(again)(x, steps=9, backend="reference"), snn(x, steps=9, backend="reference"))


def test_a_checkpoint_whose_step_sizes_do_not_fit_is_refused(tmp_path: Path) -> None:
    x = images()
    for per_channel in (False, True):
        qann = calibrated(network(), x, per_channel=per_channel)
        save(qann, tmp_path / f"qann{per_channel}")
        save(qffs.to_spiking(qann), tmp_path / f"snn{per_channel}")
    for kind, name in (("qann", "step_size"), ("snn", "threshold")):
        (tmp_path / f"{kind}False" / "config.json").replace(tmp_path / f"{kind}True" / "config.json")
        with pytest.raises(CheckpointError, match=rf"relu\.{name} has shape \(6,.*\) in the file and \(\) in"):
            load(tmp_path / f"{kind}True")


def test_tokens_are_no_channels() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.conv = nn.Linear(4, 16), nn.Conv1d(5, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(torch.relu(self.linear(x) + 1)))

    qann = qffs.quantize(Tokens(), example=torch.randn(3, 5, 4), per_channel=True)
    assert [module.step_size.shape for module in qann.modules() if isinstance(module, Quantizer)] == [(), (6,)]
