"""Calibration against plain computations: of the same means, and of the outputs' errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from helpers.problems import images, network
from qffs.errors import Diverged, InvalidArgument
from qffs.nn.inspect import quantizers
from qffs.train import search
from qffs.train.calibrate import METHODS


def test_the_first_layer_has_the_mean_over_all_batches() -> None:
    model = network()
    batches = [images(seed=s, count=3 + s) for s in range(3)]
    qann = qffs.quantize(model, bits=3, example=batches[0])
    assert qffs.calibrate(qann, batches, "lsq") is qann
    mean = torch.cat([model.stem(x).flatten() for x in batches]).abs().mean().item()
    assert qann.get_submodule("relu").step_size.item() == pytest.approx(2 * mean / math.sqrt(7), rel=1e-12)


def test_later_layers_see_quantized_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU()).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model, bits=1, example=x), [x], "lsq")
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
    qann = qffs.calibrate(qffs.quantize(model, levels=6, example=batches[0], per_channel=True), batches, "lsq")
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


# The other rules


def quantized(bits: int = 2, **options: Any) -> tuple[nn.Module, fx.GraphModule, list[Tensor]]:
    batches = [images(seed=seed, count=16) for seed in range(4)]
    model = network().eval()
    return model, qffs.quantize(model, bits, example=batches[0], **options), batches


def distance(qann: nn.Module, model: nn.Module, batches: list[Tensor]) -> float:
    x = torch.cat(batches)
    with torch.no_grad():
        target = model(x)
        return float((qann.eval()(x) - target).square().sum() / target.square().sum())


def test_output_is_the_nearest_to_the_network_in_full_precision() -> None:
    model, qann, batches = quantized()
    errors = {method: distance(qffs.calibrate(qann, batches, method), model, batches) for method in METHODS}
    others = [errors[method] for method in ("lsq", "squared_error", "percentile")]
    assert errors["output"] < 0.95 * min(others)
    assert distance(qffs.calibrate(qann, batches), model, batches) == errors["output"]


def test_no_single_factor_makes_the_last_step_size_better() -> None:
    """The last quantizer is searched when all others have their step sizes."""
    model, qann, batches = quantized()
    least = distance(qffs.calibrate(qann, batches), model, batches)
    *_, last = quantizers(qann).values()
    with torch.no_grad():
        for factor in (1 / search.FACTOR, search.FACTOR):
            last.step_size.mul_(factor)
            assert distance(qann, model, batches) >= least
            last.step_size.div_(factor)


def test_kl_is_the_nearest_by_its_measure() -> None:
    model, qann, batches = quantized()
    x = torch.cat(batches)

    def divergence(method: str) -> float:
        qffs.calibrate(qann, batches, method)
        with torch.no_grad():
            p, q = model(x).log_softmax(1), qann.eval()(x).log_softmax(1)
        return float((p.exp() * (p - q)).sum(1).mean())

    assert divergence("kl") < 0.95 * divergence("lsq")
    assert divergence("kl") <= min(map(divergence, METHODS)) * (1 + 1e-9)


def test_the_sample_is_of_all_batches() -> None:
    """Of many batches, one has large activations: the largest level must know them, wherever the batch stands."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 2)).double()
    batches = [torch.rand(100, 4, dtype=torch.float64) for _ in range(5)]
    for place in (0, 4):
        some = [x * (100 if number == place else 1) for number, x in enumerate(batches)]
        qann = qffs.calibrate(qffs.quantize(model, 3, example=some[0]), some, "percentile")
        assert qann.get_submodule("0").step_size.item() == pytest.approx(100 / 7, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_sets_step_sizes_by_channel_and_the_same_ones_again(method: str) -> None:
    _, qann, batches = quantized(per_channel=True)
    first, again = (
        {
            path: each.step_size.detach().clone()
            for path, each in quantizers(qffs.calibrate(qann, batches, method)).items()
        }
        for _ in range(2)
    )
    assert all(torch.equal(first[path], again[path]) for path in first)
    assert any(step_size.numel() > 1 and step_size.unique().numel() > 1 for step_size in first.values())


@pytest.mark.parametrize("method", METHODS)
def test_after_an_error_each_method_leaves_all_as_it_was(method: str) -> None:
    _, qann, batches = quantized()
    with pytest.raises(Diverged):
        qffs.calibrate(qann, [batches[0], images() * math.inf], method)
    assert all(each.step_size.isnan() and not each.ready for each in quantizers(qann).values())


def test_outputs_without_a_row_for_each_image_get_lsq() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).flatten()

    x = torch.randn(8, 4)
    qann = qffs.quantize(Flat(), example=x)
    step_size = next(iter(quantizers(qffs.calibrate(qann, [x], "lsq")).values())).step_size.item()
    assert next(iter(quantizers(qffs.calibrate(qann, [x])).values())).step_size.item() == step_size
    with pytest.raises(InvalidArgument, match="one row per image"):
        qffs.calibrate(qann, [x], "kl")


def test_a_method_that_does_not_exist_is_one_sentence() -> None:
    _, qann, batches = quantized()
    with pytest.raises(InvalidArgument, match="must be one of lsq, squared_error, percentile, output, kl, not 'mse'"):
        qffs.calibrate(qann, batches, "mse")


@pytest.mark.parametrize(("side", "count"), [(8, 128), (300, 23), (400, 16)])
def test_fewer_large_images_are_searched(side: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counted(search.Outputs):
        def __init__(self, qann: fx.GraphModule, inputs: tuple[Tensor, ...], kl: bool) -> None:
            seen.append(len(inputs[0]))
            super().__init__(qann, inputs, kl)

    monkeypatch.setattr(search, "Outputs", Counted)
    x = torch.rand(140, 2, side, side)
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    qffs.calibrate(qffs.quantize(model, example=x), [x])
    assert seen == [count]


def test_the_search_sees_images_of_the_whole_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is often in the order of its classes."""
    seen: list[Tensor] = []

    class Seen(search.Outputs):
        def __init__(self, qann: fx.GraphModule, inputs: tuple[Tensor, ...], kl: bool) -> None:
            seen.append(inputs[0][:, 0])
            super().__init__(qann, inputs, kl)

    monkeypatch.setattr(search, "Outputs", Seen)
    x = torch.arange(1000.0)[:, None] - 500
    model = nn.Sequential(nn.ReLU(), nn.Linear(1, 2))
    qffs.calibrate(qffs.quantize(model, example=x), x.split(100))
    assert len(seen[0]) == 128
    assert all(int(((seen[0] >= low) & (seen[0] < low + 250)).sum()) > 16 for low in range(-500, 500, 250))


def test_beyond_a_clip_nothing_is_an_error() -> None:
    x = torch.cat([torch.linspace(0, 1.5, 200), torch.full((1,), 60.0)])[:, None]
    clipped, plain = (
        qffs.calibrate(qffs.quantize(nn.Sequential(relu, nn.Linear(1, 2)), 2, example=x), [each], "squared_error")
        for relu, each in ((nn.ReLU6(), x), (nn.ReLU(), x.clamp_max(6)))
    )
    step_size = quantizers(clipped)["0"].step_size.item()
    assert step_size == quantizers(plain)["0"].step_size.item() < 6 / 3


def test_one_image_and_images_of_several_sizes_are_calibrated() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, larger = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 12, 12)
    qann = qffs.quantize(model, example=x)
    assert all(each.ready for each in quantizers(qffs.calibrate(qann, [x[:1]])).values())
    default, lsq = (
        quantizers(qffs.calibrate(qann, [x, larger], method))["1"].step_size.item() for method in ("output", "lsq")
    )
    assert default == lsq
    with pytest.raises(InvalidArgument, match="images of one size"):
        qffs.calibrate(qann, [x, larger], "kl")


def test_classes_that_a_mask_excludes_have_no_say() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network().eval()

        def forward(self, x: Tensor) -> Tensor:
            y = self.network(x)
            return torch.cat([y, y[:, :1].masked_fill(torch.ones_like(y[:, :1], dtype=torch.bool), -math.inf)], 1)

    _, qann, batches = quantized()
    masked = qffs.quantize(Masked(), 2, example=batches[0])
    for each in (qann, masked):
        qffs.calibrate(each, batches, "kl")
    plain, other = ([q.step_size.item() for q in quantizers(each).values()] for each in (qann, masked))
    assert plain == pytest.approx(other)
    qffs.calibrate(qann, batches, "lsq")
    assert plain != pytest.approx([q.step_size.item() for q in quantizers(qann).values()])
