"""Images that stay in their files: the same as those in memory, from any process, and refused by name when read."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers import places
from helpers.pictures import BLUE, GREEN, RED, make_folder, make_zip, picture, two_classes
from qffs.data import Dataset, Images, batches, hold_out, load
from qffs.data import files as files_of_data
from qffs.data.decode import FORMATS
from qffs.data.files import Files, encoded
from qffs.errors import DataError, InvalidArgument

SHARED = places.SHARED / "data" / "imagenette-160.zip"
BYTES = 7 * 3 * 8 * 8  # of all images of two_classes()
GIB = 2**30


@pytest.fixture(params=[make_folder, make_zip])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small data set, as a folder and as a zip."""
    return request.param(tmp_path / "pets", two_classes())


def in_files(path: Path, size: int | None = None) -> Dataset:
    return load(str(path), size, in_memory_gib=0, progress=False)


def in_memory(path: Path, size: int | None = None) -> Dataset:
    return load(str(path), size, progress=False)


def all_of(images: Images) -> Tensor:
    return images.read(torch.arange(len(images)))


def refusal(of: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        of()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The same images


@pytest.mark.parametrize("size", [None, 5])
def test_images_in_files_are_those_in_memory(path: Path, size: int | None) -> None:
    for files, memory in zip(parts(in_files(path, size)), parts(in_memory(path, size)), strict=True):
        assert not isinstance(files.images, Tensor)
        assert isinstance(memory.images, Tensor)
        assert files.shape == memory.shape == (3, size or 8, size or 8)
        assert torch.equal(files.labels, memory.labels)
        assert torch.equal(all_of(files), memory.images)
        assert torch.equal(files.images[-2:], memory.images[-2:])


def parts(data: Dataset) -> tuple[Images, Images]:
    return data.train, data.test


def test_numbers_may_come_in_any_order_and_again(path: Path) -> None:
    numbers = torch.tensor([4, 0, 0, 2])
    files, memory = in_files(path).train, in_memory(path).train
    assert torch.equal(files.read(numbers), memory.read(numbers))
    chosen = files.select(numbers).select(torch.tensor([3, 0]))
    assert torch.equal(all_of(chosen), memory.images[[2, 4]])
    assert chosen.labels.tolist() == [0, 1]
    assert files.read(numbers[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("limit", "stay"), [(BYTES / GIB, False), ((BYTES - 1) / GIB, True), (0, True), (float("inf"), False)]
)
def test_the_limit_is_on_all_images_together(path: Path, limit: float, stay: bool) -> None:
    data = load(str(path), in_memory_gib=limit, progress=False)
    assert [not isinstance(part.images, Tensor) for part in parts(data)] == [stay, stay]


@pytest.mark.parametrize("limit", [-1, float("nan")])
def test_a_limit_below_nothing_is_refused(limit: float) -> None:
    with pytest.raises(InvalidArgument, match="0 GiB or more, not"):
        load("digits", in_memory_gib=limit)


def test_both_kinds_are_held_out_alike(path: Path) -> None:
    for files, memory in zip(
        hold_out(in_files(path).train, 0.4, 3), hold_out(in_memory(path).train, 0.4, 3), strict=True
    ):
        assert not isinstance(files.images, Tensor)
        assert torch.equal(all_of(files), memory.images)
        assert torch.equal(files.labels, memory.labels)


# Batches and processes


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [in_files, in_memory])
def test_batches_come_in_order(path: Path, kind: Callable[[Path], Dataset], workers: int) -> None:
    groups = torch.tensor([4, 2, 0, 1, 3]).split(2)
    memory, state = in_memory(path).train, torch.get_rng_state()
    found = list(batches(kind(path).train, groups, workers))
    assert len(found) == len(groups)
    for (x, labels), group in zip(found, groups, strict=True):
        assert torch.equal(x, memory.images[group])
        assert torch.equal(labels, memory.labels[group])
    assert torch.equal(torch.get_rng_state(), state)


def test_another_process_reads_the_same(path: Path) -> None:
    """What a process that does not begin as a copy of this one is sent."""
    data = in_files(path)
    sent = pickle.loads(pickle.dumps(data.train))
    assert torch.equal(all_of(sent), all_of(data.train))


# What is refused, and when


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_a_broken_image_is_named_when_it_is_read(make: Callable[..., Path], workers: int, tmp_path: Path) -> None:
    path = make(tmp_path / "pets", two_classes() | {"train/cat/02.JPG": b"no image"})
    data = in_files(path)
    assert data.train.read(torch.tensor([0, 2, 3, 4])).shape == (4, 3, 8, 8)
    said = refusal(lambda: list(batches(data.train, [torch.tensor([0]), torch.tensor([2, 1])], workers)))
    assert said == f"train/cat/02.JPG in {path} is broken, or is no image of a known format ({', '.join(FORMATS)})"


@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_the_first_image_is_looked_at_at_once(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path / "pets", two_classes() | {"train/cat/01.PNG": b"no image"})
    assert refusal(lambda: in_files(path)).startswith(f"train/cat/01.PNG in {path} is broken")


def test_another_size_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes() | {"train/dog/b.png": picture(size=(12, 9))})
    said = refusal(lambda: all_of(in_files(path).train))
    assert said.startswith(f"train/dog/b.png in {path} is 12 x 9 pixels, but train/cat/01.PNG is 8 x 8: give a size")
    assert all_of(in_files(path, 8).train).shape == (5, 3, 8, 8)


def test_what_vanishes_is_named(path: Path) -> None:
    data = in_files(path)
    path.rename(path.with_name("elsewhere"))
    assert refusal(lambda: all_of(data.test)) == f"test/cat/z.png in {path} cannot be read: No such file or directory"


# Zip files


@pytest.mark.parametrize("way", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_each_usual_way_of_packing_is_read(way: int, tmp_path: Path) -> None:
    path = packed(tmp_path / "pets.zip", way)
    assert torch.equal(
        all_of(in_files(path).train), in_memory(make_folder(tmp_path / "as", two_classes())).train.images
    )


def packed(path: Path, way: int) -> Path:
    """The zip of a program that writes something before it, as one that unpacks itself."""
    path.write_bytes(b"before it")
    with zipfile.ZipFile(path, "a", way) as archive:
        for name, data in two_classes().items():
            archive.writestr(name, data)
    return path


def test_an_unusual_way_of_packing_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "pets.zip", zipfile.ZIP_LZMA)
    said = refusal(lambda: in_files(path))
    assert said == f"train/cat/01.PNG in {path} is packed in an unusual way: unpack the zip and give the folder"


@pytest.mark.parametrize("way", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_damaged_zip_is_said_when_the_file_is_read(way: int, tmp_path: Path) -> None:
    path = packed(tmp_path / "pets.zip", way)
    data = bytearray(path.read_bytes())
    data[data.index(b"test/dog/z.png") + 34] ^= 255
    path.write_bytes(data)
    images = in_files(path).test
    assert refusal(lambda: all_of(images)) == f"test/dog/z.png in {path} cannot be unpacked: the zip file is damaged"


@pytest.mark.parametrize("way", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_says_a_wrong_size_is_unpacked_no_further(way: int, tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    content = picture() + bytes(2**24)
    with zipfile.ZipFile(path, "w", way) as archive:
        archive.writestr("large.png", content)
        (entry,) = archive.infolist()
    place = [entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC, 1000]
    lying = Files(path, encoded(["large.png"]), np.array([place]))
    tracemalloc.start()
    said = refusal(lambda: lying.read(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == f"large.png in {path} cannot be unpacked: the zip file is damaged"
    assert peak < 2**21 or way == zipfile.ZIP_STORED


def test_a_large_file_of_a_folder_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    with (path / "train" / "dog" / "b.png").open("r+b") as stream:
        stream.truncate(3 * 2**30)
    data = in_files(path)
    assert data.train.read(torch.tensor([0])).shape == (1, 3, 8, 8)
    assert refusal(lambda: all_of(data.train)) == (
        f"train/dog/b.png in {path} has 3,072 MiB, but a file of at most 128 MiB is read: "
        "remove it, or save the image in a smaller size"
    )


# The digest


def digest(path: Path) -> str:
    return in_files(path).train.digest()


def test_the_digest_is_that_of_the_files_wherever_they_lie(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", two_classes())
    zipped = make_zip(tmp_path / "packed", {f"top/{name}": data for name, data in two_classes().items()})
    assert digest(folder) == digest(zipped) == digest(folder.rename(tmp_path / "moved"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train/dog/b.png", picture((4, 0, 0))),  # with the same name and size
        ("train/dog/b.png", two_classes()["train/dog/b.png"] + b"1"),
        ("train/dog/c.png", two_classes()["train/dog/b.png"]),
        ("train/cat/b.png", two_classes()["train/dog/b.png"]),
    ],
)
@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_the_digest_is_another_one_for_other_files(
    make: Callable[..., Path], name: str, data: bytes, tmp_path: Path
) -> None:
    others = {key: value for key, value in two_classes().items() if key != "train/dog/b.png"}
    assert digest(make(tmp_path / "a", two_classes())) != digest(make(tmp_path / "b", others | {name: data}))


def test_of_many_files_the_digest_reads_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_of_data, "SAMPLES", 3)
    read: list[int] = []
    monkeypatch.setattr(Files, "read", lambda _, number: read.append(number) or b"")
    (tmp_path / "x").touch()
    Files(tmp_path, encoded(["x"] * 9), None).digest()
    assert read == [0, 4, 8]


def test_a_file_that_vanishes_is_named_by_the_digest(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    data = in_files(path).train
    (path / "train" / "dog" / "b.png").unlink()
    assert refusal(data.digest) == f"train/dog/b.png in {path} cannot be read: No such file or directory"


# Photographs as cameras and ImageNet have them


def photograph(kind: str = "JPEG", mode: str = "RGB", color: Any = RED, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (8, 8), color).save(stream, kind, **options)
    return stream.getvalue()


CORRUPT = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries are announced, half of one is there
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"

ODD = {
    "a PNG called JPEG": (photograph("PNG"), RED),
    "cyan, magenta, yellow, black": (photograph(mode="CMYK", color=(0, 255, 255, 0)), RED),
    "gray": (photograph(mode="L", color=90), (90, 90, 90)),
    "corrupt EXIF": (photograph(exif=CORRUPT), RED),
    "turned by EXIF": (photograph(exif=TURNED), RED),
}


@pytest.mark.parametrize("kind", [in_files, in_memory])
@pytest.mark.parametrize("case", ODD)
def test_odd_photographs_are_read_without_a_warning(kind: Callable[..., Dataset], case: str, tmp_path: Path) -> None:
    data, color = ODD[case]
    for place in ("00", "07"):  # the first one, which is looked at at once, and another
        path = make_folder(tmp_path / place, two_classes() | {f"train/cat/{place}.JPEG": data})
        number = {"00": 0, "07": 2}[place]
        pixel = kind(path).train.read(torch.tensor([number]))[0, :, 4, 4]
        # JPEG rounds colors to its own: red comes back as (254, 0, 0).
        assert (pixel.int() - torch.tensor(color)).abs().max() <= 2


# ImageNet


def imagenet(prefix: str, val: str) -> dict[str, bytes]:
    """The layout of ImageNet's archive with two classes; val: where the image of a class lies in it."""
    colors = {"n01440764": RED, "n03995372": GREEN}
    files = {f"{prefix}train/{cls}/{cls}_1.JPEG": photograph(color=color) for cls, color in colors.items()}
    files |= {
        f"{prefix}val/{val.format(cls)}ILSVRC2012_val_0000000{place}.JPEG": photograph(color=color)
        for place, (cls, color) in enumerate(reversed(colors.items()))
    }
    return files | {f"{prefix}test/ILSVRC2012_test_00000001.JPEG": photograph(color=BLUE)}


SOLUTION = (
    b"ImageId,PredictionString\r\n"
    b"ILSVRC2012_val_00000001,n01440764 85 1 499 272 n01440764 1 2 3 4 \r\n"
    b"ILSVRC2012_val_00000000,n03995372 85 1 499 272 \r\n"
)
KAGGLE = imagenet("ILSVRC/Data/CLS-LOC/", "") | {"LOC_val_solution.csv": SOLUTION, "ILSVRC/Annotations/x.xml": b""}


def check_imagenet(data: Dataset) -> None:
    assert data.classes == ("n01440764", "n03995372")
    for part in parts(data):
        assert part.labels.tolist() == [0, 1]
        pixels = all_of(part)[:, :, 4, 4].int() - torch.tensor([RED, GREEN])
        assert pixels.abs().max() <= 2  # the rounding of JPEG


@pytest.mark.parametrize("make", [make_folder, make_zip])
@pytest.mark.parametrize("prefix", ["", "imagenet/", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/"])
def test_imagenet_sorted_by_class(make: Callable[..., Path], prefix: str, tmp_path: Path) -> None:
    check_imagenet(in_files(make(tmp_path / "data", imagenet(prefix, "{}/"))))


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_as_kaggle_has_it(below: str, tmp_path: Path) -> None:
    check_imagenet(in_files(make_folder(tmp_path / "data", KAGGLE) / below))


@pytest.mark.parametrize("place", ["", "ILSVRC/", "ILSVRC/Data/", "ILSVRC/Data/CLS-LOC/"])
def test_imagenet_as_kaggles_zip(place: str, tmp_path: Path) -> None:
    files = {name: data for name, data in KAGGLE.items() if not name.endswith(".csv")}
    check_imagenet(in_files(make_zip(tmp_path / "data", files | {f"{place}LOC_val_solution.csv": SOLUTION})))


@pytest.mark.parametrize("make", [make_folder, make_zip])
@pytest.mark.parametrize("prefix", ["", "ILSVRC/Data/CLS-LOC/"])
def test_a_flat_val_without_labels_is_refused(make: Callable[..., Path], prefix: str, tmp_path: Path) -> None:
    path = make(tmp_path / "data", imagenet(prefix, ""))
    assert refusal(lambda: in_files(path)) == (
        f"{prefix}val/ILSVRC2012_val_00000000.JPEG in {path} lies in no class folder: sort val into one folder per "
        "class (the script valprep.sh does it), or put Kaggle's LOC_val_solution.csv beside it"
    )


@pytest.mark.parametrize(
    "lines", [b"", SOLUTION.replace(b"val_00000001,n", b"val_00000009,n"), b"ILSVRC2012_val_00000000,\n,,\n\xff"]
)
def test_an_image_that_the_list_passes_over_is_named(lines: bytes, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "data", imagenet("", "") | {"LOC_val_solution.csv": lines})
    said = refusal(lambda: in_files(path))
    assert said.startswith("LOC_val_solution.csv does not say what val/ILSVRC2012_val_0000000")
    assert said.endswith(f".JPEG in {path} shows")


@pytest.mark.skipif(not SHARED.is_file(), reason="the images of Imagenette are not next to this checkout")
def test_real_photographs_through_worker_processes() -> None:
    data = load(str(SHARED), 64, in_memory_gib=0, progress=False)
    assert (len(data.classes), len(data.train), len(data.test)) == (10, 9469, 3925)
    groups = torch.arange(0, len(data.train), 200).split(16)
    for x, labels in batches(data.train, groups, workers=2):
        assert x.shape == (len(labels), 3, 64, 64)
    x, labels = next(iter(batches(data.train, groups)))
    assert torch.equal(x, data.train.read(groups[0]))
    assert torch.equal(labels, data.train.labels[groups[0]])
