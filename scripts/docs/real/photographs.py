"""Photographs of ImageNet, for classifiers and for detectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qffs.data import Images
from real.boxes import Reader
from real.subject import SHARED, Choice, Subject, names_in, read

SAMPLES, IMAGENETTE = SHARED / "imagenet-samples.zip", SHARED / "imagenette-160.zip"
VALIDATION = "ILSVRC2012_val_"
"""How the names of ImageNet's validation images begin; the other images of `IMAGENETTE` are training images."""
SIDE = 224
DETECTED = 200
"""The number of images for a detector, where no other is chosen."""
CLASSES = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""The classes of `IMAGENETTE` by the names of their folders, as numbers among ImageNet's 1,000 classes."""


def imagenet(network: nn.Module, choice: Choice, normalize: Callable[[Tensor], Tensor]) -> Subject:
    """Return a network for ImageNet, with ImageNet's validation images that are in `IMAGENETTE`, of ten classes.

    The calibration images are of 1,000 classes, one of each, from `SAMPLES`.
    """
    samples = names_in(SAMPLES)
    validation = [name for name in names_in(IMAGENETTE) if VALIDATION in name]
    validation.sort(key=lambda name: name.split("/")[1:])  # by class, whichever part of Imagenette an image is in
    chosen = [validation[number] for number in choice.test(len(validation)).tolist()]
    labels = torch.tensor([CLASSES[name.split("/")[1]] for name in chosen])
    calibration = read(SAMPLES, [samples[number] for number in choice.calibration(len(samples)).tolist()], SIDE)
    data = "ImageNet, on validation images of 10 classes, enlarged from 160 x 160"
    return Subject(network, data, calibration, Images(read(IMAGENETTE, chosen, SIDE), labels), normalize)


def detecting(
    network: nn.Module,
    choice: Choice,
    side: int,
    normalize: Callable[[Tensor], Tensor],
    outputs: tuple[str, ...],
    boxes: Reader,
) -> Subject:
    """Return a detector, with images of `SAMPLES` that are not calibration images; they have no labels."""
    names = names_in(SAMPLES)
    count = choice.images or DETECTED
    calibration = choice.calibration(len(names), others=count).tolist()
    others = sorted(set(range(len(names))) - set(calibration))
    chosen = Choice(count).test(len(others)).tolist()
    test = read(SAMPLES, [names[others[number]] for number in chosen], side)
    images = Images(test, torch.zeros(len(test), dtype=torch.int64))
    pixels = read(SAMPLES, [names[number] for number in calibration], side)
    return Subject(network.eval(), "Detectors, on ImageNet without labels", pixels, images, normalize, outputs, boxes)


def normalizer(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """Return the function ``(x / 255 - mean) / std`` of uint8 images [B, 3, H, W], in float32."""
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return lambda images: (images.float() / 255 - shift) / scale
