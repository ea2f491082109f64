"""Images are chosen evenly or by a seed, and read as squares."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from real.subject import CALIBRATION_IMAGES, Choice, names_in, read

from qffs.errors import DataError


def test_test_images_are_spread_evenly() -> None:
    assert Choice().test(4).tolist() == [0, 1, 2, 3]
    assert Choice(images=3).test(101).tolist() == [0, 50, 100]
    assert Choice(images=9).test(4).tolist() == [0, 1, 2, 3]


def test_a_seed_chooses_the_calibration_images() -> None:
    chosen = Choice(seed=1).calibration(5000)
    assert len(set(chosen.tolist())) == CALIBRATION_IMAGES
    assert torch.equal(chosen, chosen.sort().values)
    assert torch.equal(chosen, Choice(images=3, seed=1).calibration(5000))
    assert not torch.equal(chosen, Choice(seed=2).calibration(5000))


def test_the_center_of_an_image_is_read(tmp_path: Path) -> None:
    path, picture = tmp_path / "images.zip", Image.new("RGB", (8, 4), (0, 0, 0))
    picture.paste((255, 0, 0), (2, 0, 6, 4))  # the center square
    content = io.BytesIO()
    picture.save(content, "PNG")
    with zipfile.ZipFile(path, "w") as opened:
        for name in ("b/2.png", "a/1.png"):
            opened.writestr(name, content.getvalue())
    assert names_in(path) == ["a/1.png", "b/2.png"]
    images = read(path, names_in(path), 4)
    assert images.shape == (2, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert images[:, 0].eq(255).all()
    assert images[:, 1:].eq(0).all()
    assert read(path, ["a/1.png"], 6).shape == (1, 3, 6, 6)
    with pytest.raises(DataError, match=r"there is no file .*gone\.zip"):
        names_in(tmp_path / "gone.zip")
