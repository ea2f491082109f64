"""Reading data sets: what is read, in which order, and what is said about data that cannot be used."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import places
from helpers.pictures import BLUE, GREEN, RED, make_folder, make_zip, picture, two_classes
from qffs.data import Dataset, Images, hold_out, load, photographs
from qffs.data.archive import open_archive
from qffs.data.decode import FORMATS
from qffs.data.load import LARGEST_SIZE
from qffs.errors import DataError, InvalidArgument
from qffs.recipes.recipe import Recipe

SHARED = places.SHARED / "data" / "cifar10.zip"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(params=[make_folder, make_zip])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Write files as a folder and as a zip, called ``pets``."""
    return lambda files: request.param(tmp_path / "pets", files)


def refusal(spec: object, size: int | None = None) -> str:
    """What `load` says about data that it refuses; always one line."""
    with pytest.raises(DataError) as caught:
        load(str(spec), size, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Digits


def test_digits_are_split_by_their_place() -> None:
    digits = load("digits")
    assert (digits.name, digits.classes, digits.peak) == ("digits", tuple("0123456789"), 16)
    assert (len(digits.train), len(digits.test)) == (1348, 449)
    assert digits.train.images.shape == (1348, 1, 8, 8)
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 16)
    # The file begins with the digits 0 to 9 in turn, so images 3 and 7 are the first test images.
    assert digits.train.labels[:6].tolist() == [0, 1, 2, 4, 5, 6]
    assert digits.test.labels[:2].tolist() == [3, 7]


def test_digits_are_those_of_scikit_learn() -> None:
    """The checksum is that of scikit-learn's `load_digits`, images and then labels as bytes, in its order."""
    digits = load("digits")
    images, labels = np.empty((1797, 8, 8), np.uint8), np.empty(1797, np.uint8)
    test = np.arange(1797) % 4 == 3
    for part, chosen in ((digits.train, ~test), (digits.test, test)):
        images[chosen], labels[chosen] = part.images[:, 0].numpy(), part.labels.numpy()
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    checksum = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert checksum == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_are_scaled_to_one() -> None:
    digits = load("digits")
    scaled = digits.normalize(digits.test.images)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, digits.test.images.float() / 16)


# The types


def test_normalize_is_by_channel() -> None:
    empty = Images(torch.zeros(1, 2, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    data = Dataset("two", ("only",), empty, empty, mean=(0.5, 0.25), std=(0.5, 0.125), peak=100.0)
    found = data.normalize(torch.tensor([[[[100, 0]], [[25, 50]]]], dtype=torch.uint8))
    assert torch.equal(found, torch.tensor([[[[1.0, -1.0]], [[0.0, 2.0]]]]))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 8, 8, dtype=torch.uint8),
    ],
    ids=["floats", "channels", "no batch"],
)
def test_normalize_refuses_what_it_would_scale_wrongly(images: torch.Tensor) -> None:
    with pytest.raises(InvalidArgument, match="digits normalizes"):
        load("digits").normalize(images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images must be"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images must be"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8), "labels must be"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels must be"),
    ],
)
def test_images_refuse_other_types_and_shapes(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Images(images, labels)


def test_images_can_be_compared() -> None:
    part = load("digits").test
    assert part == part  # noqa: PLR0124
    assert part != Images(part.images, part.labels)


# Holding out


def numbered(count: int) -> Images:
    """As many images, each with its number as its label and its pixel."""
    numbers = torch.arange(count)
    return Images(numbers.to(torch.uint8).view(-1, 1, 1, 1), numbers)


@given(
    count=st.integers(2, 255),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**31),
)
def test_hold_out_puts_each_image_in_one_part(count: int, fraction: float, seed: int) -> None:
    wanted = round(fraction * count)
    if wanted in {0, count}:
        with pytest.raises(InvalidArgument, match="empty"):
            hold_out(numbered(count), fraction, seed)
        return
    kept, held = hold_out(numbered(count), fraction, seed)
    assert (len(kept), len(held)) == (count - wanted, wanted)
    assert sorted(kept.labels.tolist() + held.labels.tolist()) == list(range(count))
    for part in (kept, held):
        assert part.labels.tolist() == sorted(part.labels.tolist()) == part.images.flatten().tolist()


def test_hold_out_depends_on_the_seed_alone() -> None:
    _, first = hold_out(numbered(200), 0.25, seed=1)
    torch.manual_seed(99)
    _, again = hold_out(numbered(200), 0.25, seed=1)
    _, other = hold_out(numbered(200), 0.25, seed=2)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_hold_out_refuses_a_fraction_outside(fraction: float) -> None:
    with pytest.raises(InvalidArgument, match="between 0 and 1"):
        hold_out(numbered(10), fraction, seed=0)


@pytest.mark.parametrize(("fraction", "part"), [(0.01, "held-out"), (0.99, "kept")])
def test_hold_out_refuses_an_empty_part(fraction: float, part: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{part} part empty"):
        hold_out(numbered(10), fraction, seed=0)


# Photographs


@pytest.mark.parametrize("prefix", ["", "pets-v2/", "./"])
@pytest.mark.parametrize("test", ["test", "val"])
def test_images_come_by_class_and_file_name(make: Callable[..., Path], prefix: str, test: str) -> None:
    files = {prefix + name.replace("test/", f"{test}/"): data for name, data in two_classes().items()}
    data = load(f"images:{make(files)}", progress=False)
    assert (data.name, data.classes, data.peak) == ("pets", ("cat", "dog"), 255)
    assert data.train.images.shape == (5, 3, 8, 8)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [1, 100, 2, 200, 3]
    assert data.test.labels.tolist() == [0, 1]
    assert data.test.images[:, :, 4, 4].tolist() == [list(GREEN), list(BLUE)]


def test_rows_are_the_third_dimension(make: Callable[..., Path]) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    data = load(f"images:{make(two_classes() | {'train/cat/00.png': stream.getvalue()})}", progress=False)
    assert data.train.images[0, 1, 5, 2] == pixels[5, 2, 1]
    np.testing.assert_array_equal(data.train.images[0].permute(1, 2, 0).numpy(), pixels)


def test_a_bare_path_names_images(make: Callable[..., Path]) -> None:
    path = make(two_classes())
    assert torch.equal(
        load(str(path), progress=False).train.images, load(f"images:{path}", progress=False).train.images
    )


def test_a_home_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_folder(tmp_path / "pets", two_classes())
    assert load("images:~/pets", progress=False).name == "pets"
    assert refusal("images:~nosuchuser/pets") == "~nosuchuser/pets does not exist"


def test_photographs_are_normalized_as_imagenet(make: Callable[..., Path]) -> None:
    data = load(f"images:{make(two_classes())}", progress=False)
    found = data.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(found, torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


def test_other_files_and_hidden_files_are_passed_over(make: Callable[..., Path]) -> None:
    extra = ("__MACOSX/train/cat/._01.png", ".git/x", "train/.DS_Store", "train/cat/.hidden.png", "train/.x/y.png")
    more = ("README.md", "val", "train/cat/notes.txt", "train/labels.csv")
    files = two_classes() | dict.fromkeys(extra + more, b"no image")
    path = make(files)
    with pytest.warns(UserWarning, match="left out: ") as warned:
        assert len(load(f"images:{path}", progress=False).train) == 5
    assert [str(each.message) for each in warned] == [
        f"2 files of {path} are left out: train/cat/notes.txt (no image by its name), "
        "train/labels.csv (no image by its name)"
    ]


def test_folders_below_a_class_belong_to_it(make: Callable[..., Path]) -> None:
    files = two_classes() | {"train/cat/more/x.png": picture()}
    assert load(f"images:{make(files)}", progress=False).train.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_directory_entries_of_a_zip_are_no_images(tmp_path: Path) -> None:
    entries = dict.fromkeys(("train/", "train/cat/", "train/dog/", "test/", "test/cat/", "test/dog/"), b"")
    data = load(f"images:{make_zip(tmp_path / 'pets', entries | two_classes())}", progress=False)
    assert (len(data.train), len(data.test)) == (5, 2)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [("L", 7, (7, 7, 7)), ("RGBA", (*RED, 9), RED), ("LA", (7, 9), (7, 7, 7)), ("1", 1, (255, 255, 255))],
)
def test_every_image_becomes_rgb(make: Callable[..., Path], mode: str, color: Any, expected: tuple[int, ...]) -> None:
    files = two_classes() | {"train/cat/00.png": picture(color, mode=mode)}
    assert tuple(load(f"images:{make(files)}", progress=False).train.images[0, :, 0, 0].tolist()) == expected


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(make: Callable[..., Path]) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *GREEN])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=b"\x00\x80")
    files = two_classes() | {"train/cat/00.png": stream.getvalue()}
    assert tuple(load(f"images:{make(files)}", progress=False).train.images[0, :, 0, 0].tolist()) == GREEN


def test_threads_read_large_images_in_the_same_order(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shades = range(0, 200, 5)
    files = two_classes() | {f"train/cat/a{shade:03}.png": picture((shade, 0, 0)) for shade in shades}
    path = make(files)
    alone = load(f"images:{path}", progress=False)
    monkeypatch.setattr(photographs, "_THREADS_FROM_PIXELS", 1)
    together = load(f"images:{path}", progress=False)
    assert torch.equal(alone.train.images, together.train.images)
    assert together.train.images[3:43, 0, 0, 0].tolist() == list(shades)


def test_the_bar_goes_to_stderr_and_can_be_switched_off(
    make: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(two_classes())
    load(str(path))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "7/7" in shown.err
    load(str(path), progress=False)
    assert capsys.readouterr() == ("", "")


# Sizes


def test_images_of_several_sizes_need_a_size(make: Callable[..., Path]) -> None:
    path = make(two_classes() | {"train/dog/b.png": picture(size=(12, 9)), "train/dog/c.png": picture(size=(7, 7))})
    message = refusal(path)
    assert f"train/dog/b.png in {path} is 12 x 9 pixels, but train/cat/01.PNG is 8 x 8" in message
    assert "--size" in message


def test_a_size_resizes_the_shorter_side_and_keeps_the_center(make: Callable[..., Path]) -> None:
    wide = Image.new("RGB", (40, 20), RED)
    wide.paste(GREEN, (10, 0, 30, 20))
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    files = two_classes()
    for name, image in (("0", wide), ("00", tall)):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        files[f"train/cat/{name}.png"] = stream.getvalue()
    data = load(f"images:{make(files)}", 10, progress=False)
    assert data.train.images.shape == (7, 3, 10, 10)
    # The green square in the middle fills the crop; the filter reaches over its border by one pixel only.
    assert (data.train.images[:2, 1, 1:-1, 1:-1] == 255).all()
    assert (data.train.images[:2, 0, 1:-1, 1:-1] == 0).all()


def test_resizing_takes_the_mean_of_what_it_leaves_out(make: Callable[..., Path]) -> None:
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    stream = io.BytesIO()
    Image.fromarray(stripes).save(stream, "PNG")
    data = load(f"images:{make(two_classes() | {'train/cat/0.png': stream.getvalue()})}", 8, progress=False)
    assert (data.train.images[0, :, 1:-1, 1:-1].int() - 100).abs().max() <= 2


@pytest.mark.parametrize("size", [0, -1, 2.5, True, LARGEST_SIZE + 1, 4 * 10**9, 2**70])
def test_a_size_is_a_whole_number_within_limits(size: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="size must be a whole number from 1 to 8,192, not "):
        load(str(make_folder(tmp_path / "pets", two_classes())), size)


def test_a_recipe_takes_the_same_sizes() -> None:
    assert Recipe.of({"size": LARGEST_SIZE}).size == LARGEST_SIZE
    with pytest.raises(InvalidArgument, match="size must be"):
        Recipe.of({"size": LARGEST_SIZE + 1})


# Photographs that cannot be used


@pytest.mark.parametrize(
    "spec", ["mnist", "", "images:", "cifar10:", "no/such/folder", "cifar100:x", "~nobody/x", "x" * 999]
)
def test_an_unknown_spec_lists_the_forms(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(spec)
    assert repr(spec) in message
    assert all(form in message for form in ("digits", "cifar10:PATH", "images:PATH"))


@pytest.mark.parametrize("kind", ["images", "cifar10"])
def test_a_missing_path_is_named(kind: str, tmp_path: Path) -> None:
    assert refusal(f"{kind}:{tmp_path / 'gone.zip'}") == f"{tmp_path / 'gone.zip'} does not exist"


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"\x1f\x8b\x08 as a .tar.gz begins"])
def test_a_file_that_is_no_zip(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path} is neither a folder nor a zip file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_half_written_zip(share: float, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets", two_classes())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refusal(path).startswith(f"{path} begins as a zip file but its end is missing")


def test_a_zip_of_an_unknown_version(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets", two_classes())
    # The version needed to unpack stands 6 bytes after the signature of the first entry of the directory.
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 200
    path.write_bytes(data)
    assert "missing or damaged" in refusal(path)


def test_a_damaged_entry_of_a_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets", two_classes())
    data = bytearray(path.read_bytes())
    data[data.index(b"train/cat/10.png") + 40] ^= 255
    path.write_bytes(data)
    assert refusal(path) == f"train/cat/10.png in {path} cannot be unpacked: the zip file is damaged"


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets", two_classes())
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert f"{path} is an encrypted zip file" in refusal(path)


@pytest.mark.parametrize(("part", "named"), [("train", "train"), ("test", "test or val")])
def test_a_missing_part(make: Callable[..., Path], part: str, named: str) -> None:
    path = make({name: data for name, data in two_classes().items() if not name.startswith(part)})
    assert f"{path} has no {named} folder" in refusal(path)


def test_nothing_at_all(make: Callable[..., Path]) -> None:
    path = make({})
    assert f"{path} has no train folder" in refusal(path)


@pytest.mark.parametrize("files", [("train/", "test/"), ("train/cat/", "test/cat/"), ("train/a.txt", "test/a.txt")])
def test_no_images_at_all(make: Callable[..., Path], files: tuple[str, ...]) -> None:
    path = make(dict.fromkeys(files, b""))
    assert f"train in {path} holds no images" in refusal(path)


@pytest.mark.parametrize("entry", ["train/cow/", "train/cow/x.tga", "top/train/cow/"])
def test_an_empty_class_folder(make: Callable[..., Path], entry: str) -> None:
    prefix = "top/" if entry.startswith("top/") else ""
    files = {prefix + name: data for name, data in two_classes().items()}
    path = make(files | {entry: b"", f"{prefix}test/cow/1.png": picture()})
    assert f"class folder {prefix}train/cow in {path} holds no image: no file ends in .jpg, " in refusal(path)


def test_an_image_outside_of_a_class(make: Callable[..., Path]) -> None:
    path = make(two_classes() | {"test/1.png": picture()})
    assert f"test/1.png in {path} lies in no class folder" in refusal(path)


def test_classes_that_differ(make: Callable[..., Path]) -> None:
    path = make(two_classes() | {"train/ape/1.png": picture(), "test/cow/1.png": picture()})
    message = refusal(path)
    assert f"classes of train and test differ in {path}" in message
    assert "test has no ape" in message
    assert "train has no cow" in message


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", picture(kind="JPEG")[:-200], picture()[:-30], picture(kind="TGA")],
)
def test_a_broken_image_is_named(
    make: Callable[..., Path], data: bytes, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(photographs, "_THREADS_FROM_PIXELS", 1)
    path = make(two_classes() | {"train/cat/02.JPG": data, "train/dog/b.png": b""})
    assert (
        refusal(path)
        == f"train/cat/02.JPG in {path} is broken, or is no image of a known format ({', '.join(FORMATS)})"
    )


def test_sixteen_bits_are_refused_for_they_would_be_clipped(make: Callable[..., Path]) -> None:
    path = make(two_classes() | {"train/cat/02.png": picture(40000, mode="I;16")})
    assert f"train/cat/02.png in {path} has more than 8 bits" in refusal(path)


def test_images_that_do_not_fit_in_memory(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    path = make(two_classes())
    monkeypatch.setattr(photographs.np, "empty", full)
    assert f"7 images of 8 x 8 pixels in {path.stem} do not fit in memory" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", two_classes())
    (folder / "train/cat/10.png").chmod(0)
    assert refusal(folder) == f"train/cat/10.png in {folder} cannot be read: Permission denied"
    (folder / "train/dog").chmod(0)
    assert refusal(folder) == f"{folder / 'train/dog'} cannot be listed: Permission denied"
    (folder / "train/dog").chmod(0o700)
    zipped = make_zip(tmp_path / "pets", two_classes())
    zipped.chmod(0)
    assert refusal(zipped) == f"{zipped} cannot be read: Permission denied"


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", two_classes())
    files = open_archive(folder).files(["train/cat/10.png"])
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"train/cat/10.png in .* cannot be read: No such file"):
        files.read(0)
    (tmp_path / "pets").touch()
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        open_archive(folder)


def test_only_the_parts_of_a_folder_are_listed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", two_classes() | {"other/deep/x.png": b""})
    assert not [name for name in open_archive(folder).names if name.startswith("other")]


# CIFAR-10


def cifar_images(size: tuple[int, int] = (32, 32), classes: tuple[str, ...] = CIFAR10) -> dict[str, bytes]:
    return {
        f"{part}/{cls}/0.jpg": picture((place, place, place), size, "JPEG")
        for part in ("train", "test")
        for place, cls in enumerate(classes)
    }


def test_cifar10_as_images(make: Callable[..., Path]) -> None:
    data = load(f"cifar10:{make(cifar_images())}", progress=False)
    assert (data.name, data.classes) == ("CIFAR-10 (JPEG)", CIFAR10)
    assert data.train.images.shape == data.test.images.shape == (10, 3, 32, 32)


def test_cifar10_needs_ten_classes(make: Callable[..., Path]) -> None:
    path = make(cifar_images(classes=CIFAR10[:9]))
    assert f"{path} has 9 classes, but CIFAR-10 has 10" in refusal(f"cifar10:{path}")
    assert len(load(f"images:{path}", progress=False).classes) == 9


@pytest.mark.parametrize("size", [(64, 64), (32, 16)])
def test_cifar10_needs_32_pixels(make: Callable[..., Path], size: tuple[int, int]) -> None:
    path = make(cifar_images(size))
    found = f"train/airplane/0.jpg in {path} is {size[0]} x {size[1]} pixels"
    assert f"{found}, but CIFAR-10 images are 32 x 32" in refusal(f"cifar10:{path}")


def test_only_image_files_are_resized(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_batches(tmp_path / "batches")
    for spec in ("digits", f"cifar10:{make(cifar_images())}", f"images:{folder}"):
        with pytest.raises(InvalidArgument, match="never resized"):
            load(spec, 32)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]  # The pure Python one: its parts can be replaced.
    """Writes bytes and text as Python 2 wrote its strings, which is how the standard files were written."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def string(self, data: bytes | str) -> None:
        data = data.encode("latin1") if isinstance(data, str) else data
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)

    dispatch[bytes] = dispatch[str] = string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__qualname__}\n".encode())

    dispatch[type] = dispatch[type(save_global)] = save_global

    def save_reduce(self, func: Any, args: Any, state: Any = None, *rest: Any, **more: Any) -> None:
        # NumPy used to write dtype("u1", 0, 1), about which NumPy 2.4.0 to 2.4.4 warn.
        args = (args[0], 0, 1) if func is np.dtype else args
        super().save_reduce(func, args, state, *rest, **more)


def as_python2(found: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(found)
    return stream.getvalue()


def as_python3(found: object) -> bytes:
    return pickle.dumps(found, 2)


def batch(seed: int, count: int = 3) -> dict[bytes, object]:
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    return {b"data": data, b"labels": [(seed + place) % 10 for place in range(count)], b"batch_label": b"a batch"}


def make_batches(folder: Path, write: Callable[[object], bytes] = as_python3, **changed: object) -> Path:
    """Write small batches 1 to 5 and 6 as the test batch; ``changed`` replaces what a file holds (None: no file)."""
    files: dict[str, object] = {f"data_batch_{seed}": batch(seed) for seed in range(1, 6)}
    files["test_batch"] = batch(6)
    files["batches.meta"] = {b"label_names": [cls.encode() for cls in CIFAR10], b"num_vis": 3072}
    files.update({name.replace("__", "."): value for name, value in changed.items()})
    folder.mkdir(parents=True)
    for name, value in files.items():
        if value is not None:
            (folder / name).write_bytes(value if isinstance(value, bytes) else write(value))
    return folder


@pytest.mark.parametrize("write", [as_python2, as_python3])
@pytest.mark.parametrize("place", ["cifar-10-batches-py", "anything"])
@pytest.mark.parametrize("kind", ["cifar10:", "images:", ""])
def test_batches_are_read_in_order(tmp_path: Path, write: Callable[[object], bytes], place: str, kind: str) -> None:
    data = load(f"{kind}{make_batches(tmp_path / place, write)}")
    assert data.classes == CIFAR10
    assert data.name == ("CIFAR-10" if kind == "cifar10:" else place)
    rows = np.concatenate([batch(seed)[b"data"] for seed in range(1, 6)])  # type: ignore[misc]
    assert torch.equal(data.train.images, torch.from_numpy(rows.reshape(15, 3, 32, 32)))
    assert data.train.labels.tolist() == [1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6, 5, 6, 7]
    assert data.test.labels.tolist() == [6, 7, 8]


def test_a_python2_pickle_looks_like_the_standard_files() -> None:
    """Guards the test above: the names and codes below are those that stand in the published batches."""
    written = as_python2(batch(1))
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in written
    assert b"cnumpy\ndtype\n" in written
    assert b"_codecs" not in written


def test_the_parent_of_the_batches_will_do(tmp_path: Path) -> None:
    make_batches(tmp_path / "cifar-10-batches-py")
    assert len(load(f"cifar10:{tmp_path}").train) == 15


def test_classes_keep_the_order_of_the_meta_file(tmp_path: Path) -> None:
    names = list(reversed(CIFAR10))
    folder = make_batches(tmp_path / "b", batches__meta={b"label_names": [name.encode() for name in names]})
    assert load(f"cifar10:{folder}").classes == tuple(names)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_a_missing_batch_is_named(tmp_path: Path, name: str) -> None:
    folder = make_batches(tmp_path / "b", **{name.replace(".", "__"): None})
    assert refusal(f"cifar10:{folder}") == f"{folder / name} is missing"


def test_an_empty_folder_of_batches_is_not_taken_for_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    assert refusal(folder) == f"{folder / 'batches.meta'} is missing"


def test_a_large_batch_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = make_batches(tmp_path / "b")
    with (folder / "data_batch_2").open("r+b") as stream:
        stream.truncate(2**40)
    assert refusal(folder).startswith(f"{folder / 'data_batch_2'} has more than the 1 GiB that are read: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_among_the_batches_is_named(tmp_path: Path) -> None:
    folder = make_batches(tmp_path / "b")
    (folder / "data_batch_2").unlink()
    os.mkfifo(folder / "data_batch_2")
    assert refusal(folder) == f"{folder / 'data_batch_2'} is no regular file"


@pytest.mark.parametrize("data", [b"", b"garbage", as_python3(batch(2))[:-2000], b"\x80\x02K\x01"])
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches__meta"])
def test_an_unreadable_batch_is_named(tmp_path: Path, data: bytes, name: str) -> None:
    folder = make_batches(tmp_path / "b", **{name: data})
    assert refusal(folder) == f"{folder / name.replace('__', '.')} is truncated, damaged, or no pickle file"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_batch_2": [1, 2]}, "data_batch_2 holds no dictionary"),
        ({"data_batch_2": {}}, "data_batch_2 holds no images of 32 x 32 RGB"),
        ({"data_batch_2": batch(2) | {b"data": np.zeros((3, 3071), np.uint8)}}, "data_batch_2 holds no images of 32"),
        ({"data_batch_2": batch(2) | {b"data": np.zeros((3, 3072))}}, "data_batch_2 holds no images of 32 x 32 RGB"),
        ({"data_batch_2": batch(2, 0)}, "data_batch_2 holds no images"),
        ({"data_batch_2": batch(2) | {b"labels": [1, 2]}}, "data_batch_2 must hold one label from 0 to 9"),
        ({"data_batch_2": batch(2) | {b"labels": [1, 2, 10]}}, "data_batch_2 must hold one label from 0 to 9"),
        ({"data_batch_2": batch(2) | {b"labels": [1, 2, -1]}}, "data_batch_2 must hold one label from 0 to 9"),
        ({"data_batch_2": batch(2) | {b"labels": [1, 2, 0.5]}}, "data_batch_2 must hold one label from 0 to 9"),
        ({"data_batch_2": batch(2) | {b"labels": None}}, "data_batch_2 must hold one label from 0 to 9"),
        ({"batches__meta": {}}, "batches.meta holds no list of class names"),
        ({"batches__meta": {b"label_names": [1]}}, "batches.meta holds no list of class names"),
        ({"batches__meta": {b"label_names": [b"a"] * 9}}, "batches.meta names 9 classes, but CIFAR-10 has 10"),
    ],
)
def test_batches_that_hold_something_else(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    folder = make_batches(tmp_path / "b", as_python2, **changed)
    found = refusal(f"cifar10:{folder}")
    assert found.startswith(str(folder))
    assert message in found


def test_a_folder_may_hold_nine_classes_if_it_is_not_called_cifar10(tmp_path: Path) -> None:
    folder = make_batches(tmp_path / "b", batches__meta={b"label_names": [cls.encode() for cls in CIFAR10[:9]]})
    assert len(load(f"images:{folder}").classes) == 9


class Malicious:
    """Unpickling it calls a function with arguments of its maker's choice."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches__meta"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    evil = {b"data": Malicious(os.mkdir, str(trace))}
    folder = make_batches(tmp_path / "b", **{name: evil})
    message = refusal(f"cifar10:{folder}")
    assert message.startswith(f"{folder / name.replace('__', '.')} is refused: it asks for")
    assert "mkdir" in message
    assert not trace.exists()
    # The same file does run where nothing forbids it: otherwise this test would prove nothing.
    pickle.loads((folder / name.replace("__", ".")).read_bytes())
    assert trace.exists()


@pytest.mark.parametrize(
    "asked",
    [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy\nndarray.tofile\n", b"cnumpy.core.multiarray\nscalar\n"],
)
def test_only_the_few_names_needed_are_admitted(tmp_path: Path, asked: bytes) -> None:
    folder = make_batches(tmp_path / "b", data_batch_1=asked + b".")
    module, name = asked[1:].decode().split()
    assert f"it asks for {module}.{name}, which" in refusal(folder)


def test_only_one_codec_is_admitted(tmp_path: Path) -> None:
    folder = make_batches(tmp_path / "b", data_batch_1=b"c_codecs\nencode\n(Vx\nVrot13\ntR.")
    assert "it asks for the codec 'rot13'" in refusal(folder)


# The real thing


@pytest.mark.skipif(not SHARED.is_file(), reason="the CIFAR-10 images are not next to this checkout")
def test_the_real_cifar10_images() -> None:
    data = load(f"cifar10:{SHARED}", in_memory_gib=0, progress=False)
    assert data.classes == CIFAR10
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.read(torch.arange(0, 50000, 5000)).shape == (10, 3, 32, 32)


# Images without labels


def test_images_without_labels_are_read_where_none_are_needed(make: Callable[[dict[str, bytes]], Path]) -> None:
    colors = [BLUE, GREEN, RED]
    path = make({f"{number:02}.png": picture(colors[number % 3]) for number in range(17)} | {"notes.txt": b"x"})
    assert "holds images without labels, which only qffs quantize takes: expected train/<class>" in refusal(path)
    with pytest.warns(UserWarning, match=r"1 file of .* is left out: notes.txt \(no image by its name\)"):
        data = load(str(path), unlabeled=True, progress=False)
    assert (data.labeled, data.classes, len(data.train), len(data.test)) == (False, ("",), 15, 2)
    assert data.train.labels.eq(0).all()
    first_tested = data.test.read(torch.tensor([0]))[0, :, 0, 0].tolist()
    assert first_tested == list(colors[7 % 3])  # the eighth image
    read = torch.cat([data.train.read(torch.arange(15)), data.test.read(torch.arange(2))])
    assert len({tuple(image[:, 0, 0].tolist()) for image in read}) == 3


def test_classes_are_read_as_before_where_no_labels_are_needed(make: Callable[[dict[str, bytes]], Path]) -> None:
    path = make(two_classes())
    data = load(str(path), unlabeled=True, progress=False)
    assert (data.labeled, data.classes) == (True, load(str(path), progress=False).classes)


def test_a_folder_beside_images_without_labels_is_told(tmp_path: Path) -> None:
    """One folder alone could hold the parts, but the images lie beside it; what is left out is not silent."""
    path = make_folder(tmp_path / "pets", {f"{number}.png": picture(BLUE) for number in range(8)})
    make_folder(path / "more", {"9.png": picture(RED)})
    with pytest.warns(UserWarning, match=r"1 file of .* is left out: more \(a folder beside images without labels\)"):
        data = load(str(path), unlabeled=True, progress=False)
    assert (len(data.train), len(data.test)) == (7, 1)
    assert data.test.read(torch.tensor([0]))[0, :, 0, 0].tolist() == list(BLUE)
