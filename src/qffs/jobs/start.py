"""What every job begins with: a device, data, a network that fits them, and what is said of a run in its files."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs import sources
from qffs.augment import Augmentation
from qffs.calibration import calibrate
from qffs.convert import quantize
from qffs.data import Dataset, Images
from qffs.errors import InvalidArgument
from qffs.graph.trace import trace
from qffs.measure import check_fit
from qffs.recipe import Recipe
from qffs.report.results import Results
from qffs.train import check_seed
from qffs.version import __version__

Normalise = Callable[[Tensor], Tensor]


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises `InvalidArgument` where it is not there."""
    if name not in {"auto", "cpu", "cuda"}:
        raise InvalidArgument(f"the device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("there is no CUDA device here: name cpu instead")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def prepare(device: str, seed: int) -> torch.device:
    """The device, with the seed set: a network's operator might be random."""
    check_seed(seed)
    torch.manual_seed(seed)
    return device_of(device)


def inputs(data: Dataset, device: torch.device, channels_last: bool = True) -> Normalise:
    """What makes a network's input of images: on the device, and channels last, which convolutions like best."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def normalise(images: Tensor) -> Tensor:
        return data.normalise(images.to(device)).contiguous(memory_format=memory_format)

    return normalise


def network_of(recipe: Recipe, device: torch.device) -> nn.Module:
    """The recipe's network with its weights on the device; raises where its augmentation cannot be, too.

    To be called before images are decoded, which takes long.
    """
    Augmentation(recipe.augmentation, peak=1.0)
    torch.manual_seed(recipe.seed)
    network = sources.find(recipe.model, recipe.weights, recipe.model_arguments).network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def traced(
    recipe: Recipe, network: nn.Module, data: Dataset, augmentation: Augmentation, device: torch.device
) -> tuple[fx.GraphModule, Normalise]:
    """The network as a graph, and what makes its input of images.

    So data that do not fit it, augmented or not, are found before training, and what is trained is what is converted:
    some networks have further outputs in training.
    """
    normalise = inputs(data, device, recipe.channels_last)
    graph = trace(network, normalise(_example(data)))
    check_fit(graph, data.train, normalise, len(data.classes), recipe.model)
    augmented = Images(augmentation(_example(data)), data.train.labels[:2])
    check_fit(graph, augmented, normalise, len(data.classes), f"{recipe.model} with this augmentation")
    return graph, normalise


def quantised(recipe: Recipe, data: Dataset, network: nn.Module, normalise: Normalise) -> fx.GraphModule:
    """The network with quantised activations, as the recipe says, their step sizes not set yet."""
    example = normalise(_example(data))
    return quantize(network, recipe.bits, recipe.output, example=example, per_channel=recipe.per_channel)


def _example(data: Dataset) -> Tensor:
    return data.train.read(torch.arange(min(2, len(data.train))))


def calibrated(recipe: Recipe, qann: fx.GraphModule, images: Images, normalise: Normalise) -> fx.GraphModule:
    """The quantised network with first step sizes, in place, from some of the training images."""
    generator = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(images), generator=generator)[: recipe.calibration_images]
    calibrate(qann, (normalise(images.read(part)) for part in chosen.split(128)))
    return qann


def about(recipe: Recipe, data: Dataset, device: torch.device) -> Results:
    """What a run's files say of it: the recipe, but data and weights by name and not by path."""
    return {
        **recipe.model_dump(mode="json"),
        "data": data.name,
        "weights": Path(recipe.weights).name if recipe.weights else None,
        "device": device.type,
        "versions": {"qffs": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def fingerprint(data: Dataset) -> str:
    """What tells data apart without reading an image: their name, sizes, classes and all labels."""
    parts = [
        (part.shape, hashlib.sha256(part.labels.numpy().tobytes()).hexdigest()) for part in (data.train, data.test)
    ]
    return hashlib.sha256(repr((data.name, data.classes, parts)).encode()).hexdigest()


def usual_augmentation(data: Dataset) -> list[dict[str, dict[str, Any]]]:
    """Shifts by up to an eighth of the side; photographs, unlike digits, are mirrored."""
    _, height, width = data.train.shape
    shift = {"RandomCrop": {"size": [height, width], "padding": [width // 8, height // 8]}}
    return [shift, {"RandomHorizontalFlip": {"p": 0.5}}] if len(data.mean) == 3 else [shift]
