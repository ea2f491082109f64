"""A damaged zip of images is one sentence, whether its list or an image in it is damaged."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from PIL import Image

from helpers import mutations
from qffs.data import load
from qffs.errors import QffsError


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for part in ("train", "test"):
            for name, level in (("a", 20), ("b", 200)):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8), (level, 9, level)).save(picture, "PNG")
                zipped.writestr(f"{part}/{name}/1.png", picture.getvalue())
    return stream.getvalue()


def test_any_damage_is_one_sentence(tmp_path: Path) -> None:
    path, sentences = tmp_path / "images.zip", []
    for damaged in mutations.of_bytes(archive(), 150):
        path.write_bytes(damaged)
        try:
            images = load(f"images:{path}", progress=False).train
            images.read(torch.arange(len(images)))
            sentences.append("")
        except QffsError as error:
            sentences.append(str(error))
    assert any(sentences)
    assert not all(sentences)
    assert not any("\n" in sentence for sentence in sentences)
