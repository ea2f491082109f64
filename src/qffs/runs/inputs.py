"""What every job begins with: a device, data, a network that fits them, and what is said of a run in its files."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qffs.models import find
from qffs.data.augment import Augmentation
from qffs.convert import calibrate
from qffs.convert import quantize
from qffs.data import Dataset, Images, hold_out, in_memory
from qffs.data import load as load_data
from qffs.errors import InvalidArgument
from qffs.graph.trace.trace import trace
from qffs.measurement.batches import check_fit
from qffs.recipes.recipe import Recipe
from qffs.files import Results
from qffs.train.seeds import check_seed
from qffs.version import __version__

Normalize = Callable[[Tensor], Tensor]


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


def inputs(data: Dataset, device: torch.device, channels_last: bool = True) -> Normalize:
    """What makes a network's input of images: on the device, and channels last, which convolutions like best."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def normalize(images: Tensor) -> Tensor:
        return data.normalize(images.to(device)).contiguous(memory_format=memory_format)

    return normalize


class Materials(NamedTuple):
    """What a job works with: the network as a graph, on its device, data, and what makes its input of images."""

    network: fx.GraphModule
    data: Dataset
    normalize: Normalize
    augmentation: Augmentation


def materials(recipe: Recipe, device: torch.device, *, usual: bool = False, progress: bool = True) -> Materials:
    """The recipe's materials; what cannot be is refused before images are decoded, which may take long.

    The network is traced, so that what is trained is what is converted: some networks have further outputs in training.
    usual: without an augmentation in the recipe, take `usual_augmentation`.
    """
    Augmentation(recipe.augmentation, peak=1.0)
    torch.manual_seed(recipe.seed)
    network = find.find(recipe.model, recipe.weights, recipe.model_arguments).network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = load_data(recipe.data, recipe.size, in_memory_gib=0, progress=progress)
    normalize = inputs(data, device, recipe.channels_last)
    graph = trace(network, normalize(_example(data)))
    check_fit(graph, data.train, normalize, len(data.classes), recipe.model)
    augmentation = Augmentation(recipe.augmentation or (usual_augmentation(data) if usual else []), data.peak)
    augmented = Images(augmentation(_example(data)), data.train.labels[:2])
    check_fit(graph, augmented, normalize, len(data.classes), f"{recipe.model} with this augmentation")
    quantized(recipe, data, graph, normalize)
    parts(recipe, data)
    return Materials(graph, in_memory(data, progress=progress), normalize, augmentation)


def parts(recipe: Recipe, data: Dataset) -> tuple[Images, Images | None, Images]:
    """The images to train on, those held out, and those to test on, as the recipe says."""
    images, held_out, test = data.train, None, data.test
    if recipe.held_out:
        images, held_out = hold_out(images, recipe.held_out, recipe.seed)
    if recipe.test_images is not None:
        if recipe.test_images > len(test):
            raise InvalidArgument(f"test_images is {recipe.test_images}, but {data.name} has {len(test)}")
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(recipe.seed))
        test = test.select(order[: recipe.test_images].sort().values)
    return images, held_out, test


def quantized(recipe: Recipe, data: Dataset, network: nn.Module, normalize: Normalize) -> fx.GraphModule:
    """The network with quantized activations, as the recipe says, their step sizes not set yet."""
    example = normalize(_example(data))
    return quantize(network, recipe.bits, recipe.output, example=example, per_channel=recipe.per_channel)


def _example(data: Dataset) -> Tensor:
    return data.train.read(torch.arange(min(2, len(data.train))))


def calibrated(recipe: Recipe, qann: fx.GraphModule, images: Images, normalize: Normalize) -> fx.GraphModule:
    """The quantized network with first step sizes, in place, from some of the training images."""
    generator = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(images), generator=generator)[: recipe.calibration_images]
    calibrate(qann, (normalize(images.read(part)) for part in chosen.split(128)))
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
