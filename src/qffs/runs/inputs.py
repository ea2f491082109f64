"""The inputs of a run: a device, data and a network that fits them; and the description in the run's files."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.convert import quantize
from qffs.data import Dataset, Images, hold_out, in_memory
from qffs.data import load as load_data
from qffs.data.augment import Augmentation, smaller
from qffs.errors import InvalidArgument
from qffs.files import Results
from qffs.graph.replace import output_quantizers
from qffs.graph.trace.trace import trace
from qffs.measurement.batches import check_fit
from qffs.models import find
from qffs.nn.inspect import digest
from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Recipe, Training
from qffs.runs.processors import threads_for
from qffs.train.calibrate import calibrate
from qffs.train.seeds import check_seed
from qffs.version import __version__

Normalize = Callable[[Tensor], Tensor]


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA if there is a CUDA device, else the CPU.

    Raises `InvalidArgument` for another name, and for "cuda" without a CUDA device.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise InvalidArgument(f"the device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("there is no CUDA device here: name cpu instead")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def seeded_device(device: str, seed: int) -> torch.device:
    """Set PyTorch's seed, because an operator of a network might be random, and return the device of a name."""
    check_seed(seed)
    torch.manual_seed(seed)
    return device_of(device)


def normalizer(data: Dataset, device: torch.device, channels_last: bool = True) -> Normalize:
    """Return the function from images to a network's input: normalized and on the device.

    channels_last: the memory format in which most convolutions are fastest.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def normalize(images: Tensor) -> Tensor:
        return data.normalize(images.to(device)).contiguous(memory_format=memory_format)

    return normalize


@dataclass(frozen=True)
class Parts:
    """The images of a run: training images, held-out images if a recipe asks for them, and test images."""

    train: Images
    held_out: Images | None
    test: Images


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run: a network as a graph on its device, data, and the function from images to its input.

    ``qann``: the quantized network with the weights before training; `quantized` gives it the present weights.
    ``named_teacher``: the network that the recipe names as its teacher.
    ``undecoded``: the data with its image files before they are decoded.
    """

    device: torch.device
    network: fx.GraphModule
    qann: fx.GraphModule
    data: Dataset
    parts: Parts
    normalize: Normalize
    augmentation: Augmentation
    undecoded: Dataset
    named_teacher: nn.Module | None = None

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The hashes by which the data are known, see `Dataset.fingerprints`, and that of a named teacher."""
        teacher = {} if self.named_teacher is None else {"teacher": digest(self.named_teacher)}
        return self.undecoded.fingerprints | teacher

    def quantized(self) -> fx.GraphModule:
        """Return the quantized network with the present weights of the network; its step sizes do not change."""
        missing, _ = self.qann.load_state_dict(self.network.state_dict(), strict=False)
        assert all(key.endswith("step_size") for key in missing), missing
        return self.qann

    def teacher(self) -> nn.Module:
        """Return the network whose logits are distilled, in eval mode: the named teacher, or the present network."""
        return self.network.eval() if self.named_teacher is None else self.named_teacher

    def output(self) -> Quantizer | None:
        """Return the quantizer of the quantized network's output, None where the output is a number.

        A network that ends in a ReLU has one, even if the recipe's output is analog.
        """
        modules = [self.qann.get_submodule(path) for path in output_quantizers(self.qann)]
        return next((module for module in modules if isinstance(module, Quantizer)), None)

    def threads(self, *trainings: Training) -> AbstractContextManager[None]:
        """Return a context whose block uses the threads that `threads_for` chooses for these trainings."""
        example = self.normalize(self.parts.train.read(torch.arange(1)))
        return threads_for(self.network, example, max(each.batch_size for each in trainings))


def run_inputs(
    recipe: Recipe,
    device: torch.device,
    *,
    usual: bool = False,
    unlabeled: bool = False,
    parts_seed: int | None = None,
    progress: bool = True,
) -> RunInputs:
    """Return the inputs of a recipe's run.

    Errors are raised before images are decoded, because decoding may take long. The network is traced, so that the
    trained network is the converted one: some networks have further outputs in training. usual: use
    `usual_augmentation` if the recipe has no augmentation; unlabeled: accept images without labels; parts_seed: the
    seed that chooses held-out and test images, by default the recipe's seed.
    """
    Augmentation(recipe.augmentation, peak=1.0)
    torch.manual_seed(recipe.seed)
    network = find.find(recipe.model, recipe.weights, recipe.model_arguments).network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = load_data(recipe.data, recipe.size, in_memory_gib=0, unlabeled=unlabeled, progress=progress)
    normalize = normalizer(data, device, recipe.channels_last)
    augmentation = Augmentation(recipe.augmentation or (usual_augmentation(data) if usual else []), data.peak)
    images = data.train.read(torch.arange(min(2, len(data.train))))
    graph, teacher = trace(network, normalize(images)), None
    cases = [
        (data.train, normalize, ""),
        (Images(augmentation(images), data.train.labels[:2]), normalize, " with this augmentation"),
    ]
    if any(section.small_share and section.epochs for section in (recipe.full_precision, recipe.quantized)):
        words = " with small_share, in which images are smaller,"
        cases.append((cases[1][0], lambda few: smaller(normalize(few)), words))
    for part, prepare, where in cases:
        outputs = check_fit(graph, part, prepare, classes=len(data.classes), name=recipe.model + where)
    if recipe.teacher is not None:
        from qffs.runs.teacher import prepare as prepare_teacher  # imported here because few recipes name one

        teacher = find.find(recipe.teacher, recipe.teacher_weights).network
        prepare_teacher(teacher, recipe, graph, cases, classes=len(data.classes), outputs=outputs)
    qann = quantize(
        graph, recipe.bits, recipe.output, example=normalize(images), per_channel=recipe.per_channel
    )  # before training, so that a network that cannot be quantized is refused at once
    seed = recipe.seed if parts_seed is None else parts_seed
    parts, decoded = parts_of(recipe, data, seed), in_memory(data, progress=progress)
    return RunInputs(
        device=device,
        network=graph,
        qann=qann,
        data=decoded,
        parts=parts if decoded is data else parts_of(recipe, decoded, seed),
        normalize=normalize,
        augmentation=augmentation,
        undecoded=data,
        named_teacher=teacher,
    )


def parts_of(recipe: Recipe, data: Dataset, seed: int) -> Parts:
    """Return the training, held-out and test images of a recipe, chosen by a seed; no file is read.

    Raises `InvalidArgument` if a part would be empty, or if the data have fewer test images than ``test_images``.
    """
    images, held_out, test = data.train, None, data.test
    if recipe.held_out:
        images, held_out = hold_out(images, recipe.held_out, seed)
    if recipe.test_images is not None:
        if recipe.test_images > len(test):
            raise InvalidArgument(f"test_images is {recipe.test_images}, but {data.name} has {len(test)}")
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
        test = test.select(order[: recipe.test_images].sort().values)
    return Parts(images, held_out, test)


def calibrate_on(
    inputs: RunInputs,
    images: Images,
    recipe: Recipe,
    after: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> None:
    """Set the first step sizes of the quantized network, in place, from as many images as the recipe says.

    They are LSQ's where a training follows, which begins as LSQ does. Then reconstruct the
    network on the same images, if the recipe says so. after: called after each of the two stages with its name.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    numbers = torch.randperm(len(images), generator=generator)[: recipe.calibration_images]
    batches = [inputs.normalize(images.read(part)) for part in numbers.split(128)]
    calibrate(inputs.qann, batches, "lsq" if recipe.quantized.epochs else "output")
    after("calibrated")
    if recipe.reconstruction_steps:
        from qffs.train.reconstruct import reconstruct  # imported here because few recipes need it

        steps = recipe.reconstruction_steps
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            reconstruct(inputs.qann, inputs.network, batches, steps=steps, seed=recipe.seed, progress=progress)
        after("reconstructed")


def about(recipe: Recipe, data: Dataset, device: torch.device) -> Results:
    """Return the description of a run for its files: its recipe, with data and weights by name instead of path."""
    return {
        **recipe.model_dump(mode="json"),
        "data": data.name,
        **{name: path and Path(path).name for name, path in recipe.weight_files.items()},
        "device": device.type,
        "versions": {"qffs": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def check_augmentation(steps: Sequence[dict[str, Any]]) -> None:
    """Raise `InvalidArgument` unless each step of an augmentation exists, and runs on large color images."""
    Augmentation(steps, peak=1.0)(torch.zeros(2, 3, 512, 512, dtype=torch.uint8))


def usual_augmentation(data: Dataset) -> list[dict[str, dict[str, Any]]]:
    """Return an augmentation: shifts by up to an eighth of the side, and for color images also mirroring."""
    _, height, width = data.train.shape
    shift = {"RandomCrop": {"size": [height, width], "padding": [width // 8, height // 8]}}
    return [shift, {"RandomHorizontalFlip": {"p": 0.5}}] if len(data.mean) == 3 else [shift]
