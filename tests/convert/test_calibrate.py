"""Calibration against a plain computation of the same means."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import images, network
from qffs.errors import Diverged, InvalidArgument


def test_the_first_layer_has_the_mean_over_all_batches() -> None:
    model = network()
    batches = [images(seed=s, count=3 + s) for s in range(3)]
    qann = qffs.quantize(model, bits=3, example=batches[0])
    assert qffs.calibrate(qann, batches) is qann
    mean = torch.cat([model.stem(x).flatten() for x in batches]).abs().mean().item()
    assert qann.get_submodule("relu").step_size.item() == pytest.approx(2 * mean / math.sqrt(7), rel=1e-12)


def test_later_layers_see_quantized_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU()).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model, bits=1, example=x), [x])
    quantized = qann.get_submodule("1")(model[0](x))
    mean = model[2](quantized).abs().mean().item()
    assert qann.get_submodule("3").step_size.item() == pytest.approx(2 * mean, rel=1e-12)


def test_autocast_changes_no_step_size() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(64, 4)
    step_size = qffs.calibrate(qffs.quantize(model, example=x), [x]).get_submodule("1").step_size
    with torch.autocast("cpu", torch.bfloat16):
        again = qffs.calibrate(qffs.quantize(model, example=x), [x]).get_submodule("1").step_size
    assert torch.equal(step_size, again)


def test_modes_and_batch_norm_are_left_alone() -> None:
    qann = qffs.quantize(network().train(), example=images())
    before = {name: value.clone() for name, value in qann.state_dict().items() if "running" in name}
    qffs.calibrate(qann, [images()])
    assert qann.training
    assert all(torch.equal(qann.state_dict()[name], value) for name, value in before.items())
    assert not any(module._forward_pre_hooks for module in qann.modules())


def test_bad_input() -> None:
    qann = qffs.quantize(network(), example=images())
    with pytest.raises(InvalidArgument, match="at least one batch"):
        qffs.calibrate(qann, [])
    with pytest.raises(InvalidArgument, match="give a list"):
        qffs.calibrate(qann, images())
    qffs.calibrate(qann, [[images()]])  # what PyTorch's loaders give of inputs alone
    with pytest.raises(InvalidArgument, match="no quantizer"):
        qffs.calibrate(network(), [images()])
    with pytest.raises(Diverged, match="NaN or infinity"):
        qffs.calibrate(qann, [images() * math.nan])


@pytest.mark.parametrize("batch", [[images(), torch.zeros(4)], (images(), torch.zeros(4)), images()[:0]])
def test_batches_are_inputs_alone(batch: object) -> None:
    qann = qffs.quantize(network(), example=images())
    with pytest.raises(InvalidArgument, match="without labels"):
        qffs.calibrate(qann, [batch])  # type: ignore[list-item]


def test_after_an_error_all_step_sizes_are_what_they_were() -> None:
    qann = qffs.quantize(network(), example=images())
    with pytest.raises(Diverged):
        qffs.calibrate(qann, [images(), images() * math.inf])
    assert qann.get_submodule("relu").step_size.isnan()
    assert not qann.get_submodule("relu").ready


def test_by_channel_each_has_the_mean_over_all_batches() -> None:
    """The equation a channel, over batches of unequal size; a channel of zeros gets 1, the clip bounds each."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Hardtanh(0, 0.6)).double()
    model[0].weight.data *= torch.tensor([0.01, 1.0, 0.0, 9.0]).view(-1, 1, 1, 1)
    model[0].bias.data[2] = 0
    model[2].weight.data[0] *= 1e-3
    model[2].bias.data[0] = 0
    batches = [images(seed=s, count=3 + s) for s in range(3)]
    qann = qffs.calibrate(qffs.quantize(model, levels=6, example=batches[0], per_channel=True), batches)
    first, second = (qann.get_submodule(path).step_size for path in "13")
    reached = torch.cat([model[0](x) for x in batches]).abs()
    expected = [2 * reached[:, channel].mean().item() / math.sqrt(6) for channel in range(4)]
    expected[2] = 1.0
    assert first.tolist() == pytest.approx(expected, rel=1e-12)
    assert second.max().item() == pytest.approx(0.6 / 6)
    assert 0 < second[0] < 0.05


def test_by_channel_too_an_error_leaves_all_as_it_was() -> None:
    qann = qffs.quantize(network(), example=images(), per_channel=True)
    qffs.calibrate(qann, [images()])
    before = {name: tensor.clone() for name, tensor in qann.state_dict().items() if "step_size" in name}
    with pytest.raises(Diverged):
        qffs.calibrate(qann, [images(seed=3), images() * math.nan])
    assert all(torch.equal(qann.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_batch_of_another_rank_is_one_sentence() -> None:
    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).mean((2, 3)).view(x.shape[0], -1)

    qann = qffs.quantize(Means(), example=torch.randn(2, 3, 4, 4))
    with pytest.raises(InvalidArgument, match=r"does not run on a batch of \(3, 4, 4\)"):
        qffs.calibrate(qann, [torch.randn(3, 4, 4)])
