"""What is measured: a network with published weights, and the images for it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from qffs.data import Images
from qffs.data.decode import decode
from qffs.errors import DataError
from qffs.progress import track
from real.boxes import Reader

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
"""The folder of the published weights and of the images, beside the repository."""

CALIBRATION_IMAGES = 1024
"""The most images, without labels, from which a network is calibrated and reconstructed."""


@dataclass(frozen=True)
class Subject:
    """A network with published weights, and the images on which it is measured.

    network: the network in eval mode. data: the name of its data. calibration: training images, uint8 [N, 3, H, W].
    test: other images, with their labels, or with zeros where there are none. normalize: the function from uint8 images
    to the input of the network. outputs: the names of the outputs of a detector, in their order; empty for a
    classifier. boxes: how the boxes of a detector are read from its outputs.
    """

    network: nn.Module
    data: str
    calibration: Tensor
    test: Images
    normalize: Callable[[Tensor], Tensor]
    outputs: tuple[str, ...] = ()
    boxes: Reader | None = None


@dataclass(frozen=True)
class Choice:
    """Which images a measurement takes.

    images: how many test images, evenly spread; None takes all. seed: the seed that chooses the training images for the
    calibration.
    """

    images: int | None = None
    seed: int = 0

    def test(self, count: int) -> Tensor:
        """Return the indices of the chosen ones of ``count`` test images, in their order."""
        chosen = count if self.images is None else min(self.images, count)
        return torch.linspace(0, count - 1, chosen).long()

    def calibration(self, count: int, others: int = 0) -> Tensor:
        """Return the indices of up to `CALIBRATION_IMAGES` of ``count`` training images, in their order.

        others: how many of these images are needed for something else.
        """
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[: min(CALIBRATION_IMAGES, count - others)].sort().values


def names_in(path: Path) -> list[str]:
    """Return the names of the files in a zip, sorted; raise `DataError` if there is no such zip."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    with zipfile.ZipFile(path) as opened:
        return sorted(opened.namelist())


def read(path: Path, names: Sequence[str], size: int) -> Tensor:
    """Return images of a zip, uint8 [N, 3, size, size]: the center square, resized with bicubic interpolation."""
    with zipfile.ZipFile(path) as opened, track(f"decoding {path.name}", len(names), "images") as bar:
        images = []
        for name in names:
            whole = Image.fromarray(decode(opened.read(name), name, None))
            square = ImageOps.fit(whole, (size, size), Image.Resampling.BICUBIC)
            images.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
            bar.advance()
    return torch.stack(images)
