"""The handwritten digits that are shipped with the library."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch

from qffs.data.dataset import Dataset, Images


def read_digits() -> Dataset:
    """Return the 1,797 UCI digits, uint8 [N, 1, 8, 8], values 0 to 16; every fourth image is a test image."""
    with files("qffs").joinpath("data", "shipped", "digits.npz").open("rb") as stream, np.load(stream) as arrays:
        images = torch.from_numpy(arrays["images"]).unsqueeze(1)
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    test = torch.arange(len(labels)) % 4 == 3
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train=Images(images[~test], labels[~test]),
        test=Images(images[test], labels[test]),
        mean=(0.0,),
        std=(1.0,),
        peak=16.0,
    )
