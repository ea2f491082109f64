"""Small images, and data sets of them in folders and zips."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(color: Any = RED, size: tuple[int, int] = (8, 8), kind: str = "PNG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, kind)
    return stream.getvalue()


def two_classes() -> dict[str, bytes]:
    """The files of a small, good data set, in an order that is not the order wanted."""
    return {
        "test/dog/z.png": picture(BLUE),
        "train/dog/b.png": picture((3, 0, 0)),
        "train/cat/10.png": picture((2, 0, 0)),
        "train/dog/a.jpeg": picture((200, 200, 200), kind="JPEG"),
        "train/cat/01.PNG": picture((1, 0, 0)),
        "train/cat/02.JPG": picture((100, 100, 100), kind="JPEG"),
        "test/cat/z.png": picture(GREEN),
    }


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (path / name).write_bytes(data)
        else:
            (path / name).mkdir(exist_ok=True)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path
