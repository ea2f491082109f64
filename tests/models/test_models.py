"""The networks that come with the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qffs
from helpers import places
from qffs.data import Dataset, Images, photographs
from qffs.errors import InvalidArgument
from qffs.models import MODELS, build, residual
from qffs.models.weights import load_weights, read_weights

SHARED = places.SHARED / "data"


WIDTH = {"digits_net": 32, "cifar_resnet20": 16, "cifar_resnet18": 8, "cifar_vgg16": 8, "mlperf_resnet8": 4}
SPIKING = {"digits_net": 5, "cifar_resnet20": 19, "cifar_resnet18": 17, "cifar_vgg16": 13, "mlperf_resnet8": 7}


@pytest.mark.parametrize("name", WIDTH)
def test_exact(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, width=WIDTH[name]).double()
    for module in model.modules():  # as after some training, when no two channels are alike
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
    x = torch.rand(2, *((1, 8, 8) if name == "digits_net" else (3, 32, 32)), dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x], "lsq").eval()
    compared = qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)
    assert len(compared.layers) == SPIKING[name]


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("cifar_resnet18", 64, 11_173_962),  # as it is given for this network on CIFAR-10 everywhere
        ("cifar_vgg16", 64, 14_724_042),  # configuration D: its convolutions, 2 x 4,224 of batch norm, 5,130 at the end
        ("cifar_resnet20", 16, 269_722),
        ("mlperf_resnet8", 16, 78_186),  # 77,056 of convolutions, 480 of batch norm, 650 at the end
    ],
)
def test_sizes(name: str, width: int, parameters: int) -> None:
    network = build(name)
    assert sum(each.numel() for each in network.parameters()) == parameters
    half = build(name, classes=7, channels=1, width=width // 2)
    assert half(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    kernels = {path: each.weight.shape[0] for path, each in network.named_modules() if isinstance(each, nn.Conv2d)}
    for path, each in half.named_modules():
        if isinstance(each, nn.Conv2d):
            assert 2 * each.weight.shape[0] == kernels[path]


def test_the_parameters_of_vgg16_are_those_of_configuration_d() -> None:
    channels = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    layers = [layer for layer in build("cifar_vgg16").features if not isinstance(layer, nn.BatchNorm2d | nn.ReLU)]  # type: ignore[union-attr]
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == channels
    assert [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)] == [2, 5, 9, 13, 17]


def test_projections_stand_where_a_stage_begins() -> None:
    paths = dict(build("cifar_resnet18", width=4).named_modules())
    assert [path for path in paths if path.endswith("shortcut")] == [f"layer{stage}.0.shortcut" for stage in (2, 3, 4)]
    assert not [path for path, _ in build("cifar_resnet20").named_modules() if "shortcut" in path]


@pytest.mark.parametrize("value", [0, -1, 2.0, "ten", True, None])
def test_sizes_are_whole_numbers(value: object) -> None:
    with pytest.raises(InvalidArgument, match="width of digits_net must be a whole number of at least 1, not "):
        build("digits_net", width=value)


def test_unknown_name() -> None:
    with pytest.raises(InvalidArgument, match="there is no model 'resnet'; there are digits_net, cifar_resnet20"):
        build("resnet")


@pytest.mark.parametrize("depth", [20, 56])
def test_published_weights_fit(depth: int) -> None:
    path = SHARED / f"cifar10_resnet{depth}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    model = build(f"cifar_resnet{depth}")
    load_weights(model, read_weights(path), path.name)
    assert len(MODELS) >= 6


def test_published_weights_of_mlperf_fit() -> None:
    path = SHARED / "mlperf_tiny_resnet8.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    tensors, model = read_weights(path), build("mlperf_resnet8")
    load_weights(model, tensors, path.name)
    ours = model.state_dict()
    assert {name for name in ours if not name.endswith("num_batches_tracked")} == set(tensors)
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())


def seen(model: nn.Module, path: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the module at a path reads and returns while the model runs on ``x``."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, read, output: calls.append((read[0], output)))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return calls[0]


def test_mlperf_reads_the_pixels_as_they_are() -> None:
    assert (residual.MEAN, residual.STD) == (photographs.MEAN, photographs.STD)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Images(pixels, torch.zeros(2, dtype=torch.int64))
    data = Dataset("any", ("a",), part, part, photographs.MEAN, photographs.STD, 255.0)
    read, _ = seen(build("mlperf_resnet8", width=2), "conv.0", data.normalize(pixels))
    torch.testing.assert_close(read, pixels.float(), rtol=0, atol=1e-4)  # of numbers up to 255 in float32


@pytest.mark.parametrize("number", [3, 6])
def test_mlperf_pads_at_the_right_and_below_only(number: int) -> None:
    torch.manual_seed(0)
    model = build("mlperf_resnet8", width=2).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    x, shortcut = seen(model, f"conv.{number + 2}", images)  # the input of the unit, before its padding
    _, output = seen(model, f"conv.{number}", images)
    conv = model.get_submodule(f"conv.{number}")
    assert output.shape == shortcut.shape == (2, 2 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
    for row in range(output.shape[2]):
        for column in range(output.shape[3]):
            window = x[:, None, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]  # cut off where x ends
            kernel = conv.weight[:, :, : window.shape[3], : window.shape[4]]  # type: ignore[index]
            by_hand = (window * kernel).sum((2, 3, 4)) + conv.bias
            torch.testing.assert_close(output[:, :, row, column], by_hand, rtol=0, atol=1e-12)


def test_mlperf_is_the_same_from_a_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("mlperf_resnet8", width=2).eval()
    x = torch.randn(4, 3, 32, 32)
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x], "lsq").eval()
    snn = qffs.to_spiking(qann)
    loaded = [qffs.load(qffs.save(each, tmp_path / str(i))).network for i, each in enumerate((qann, snn))]
    assert torch.equal(qann(x), loaded[0](x))
    assert torch.equal(snn(x, steps=8), loaded[1](x, steps=8))
