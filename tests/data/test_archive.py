"""What a zip or a folder of images offers: each folder once, files only, and nothing that unpacks without end."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from helpers.pictures import make_folder, make_zip, picture, two_classes
from qffs.data import archive, files, load
from qffs.errors import DataError


def count(path: Path) -> int:
    return len(load(str(path), progress=False).train)


def notice(path: Path, images: int) -> str:
    """Return the one warning about what is left out, where ``images`` training images are read."""
    with pytest.warns(UserWarning, match="left out: ") as warned:
        assert count(path) == images
    (message,) = [str(each.message) for each in warned]
    return message


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(str(path), in_memory_gib=0, progress=False)  # only the first image is read
    return str(caught.value)


# Links


@pytest.mark.parametrize(
    "links",
    [
        {"cat/latest": "."},
        {"cat/up": ".."},
        {"cat/a": ".", "cat/b": "."},
        {"cat/other": "../dog", "dog/other": "../cat"},
    ],
)
def test_links_to_folders_that_are_read_are_left_out(links: dict[str, str], tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    for name, target in links.items():
        (path / "train" / name).symlink_to(target)
    names = ", ".join(f"train/{name} (a link to a folder that is read already)" for name in sorted(links))
    count = "1 file of {} is" if len(links) == 1 else f"{len(links)} files of {{}} are"
    assert notice(path, 5) == f"{count.format(path)} left out: {names}"


@pytest.mark.parametrize("target", ["../..", "../../..", "../../../.."])
def test_a_link_to_a_folder_above_images_is_left_out(target: str, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    make_folder(tmp_path / "all" / "others", two_classes())
    path = make_folder(tmp_path / "all" / "pets", two_classes())
    (path / "train" / "cat" / "up").symlink_to(target)
    assert notice(path, 5) == f"1 file of {path} is left out: train/cat/up (a link to a folder above images)"


@pytest.mark.parametrize("target", ["../../test", "../../test/cat", "../../test/dog", "../dog"])
def test_an_image_is_in_one_class_of_one_part(target: str, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    (path / "train" / "cat" / "more").symlink_to(target)
    assert "train/cat/more (a link to a folder that is read already)" in notice(path, 5)


def test_a_link_back_from_elsewhere_is_left_out(tmp_path: Path) -> None:
    elsewhere = make_folder(tmp_path / "elsewhere", two_classes())
    (elsewhere / "train" / "cat" / "up").symlink_to("../..")
    path = make_folder(tmp_path / "pets", {})
    for part in ("train", "test"):
        (path / part).symlink_to(elsewhere / part)
    assert "train/cat/up (a link to a folder above images)" in notice(path, 5)


def test_classes_and_images_may_be_links_to_elsewhere(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    (path / "train" / "cat").rename(tmp_path / "cats")
    (path / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "pool.png").write_bytes(picture())
    (path / "train" / "dog" / "one.png").symlink_to(tmp_path / "pool.png")
    (path / ".kept.png").write_bytes(picture())
    (path / "train" / "dog" / "two.png").symlink_to("../../.kept.png")
    (path / "val").symlink_to("test")  # not needed, because there is a test
    assert count(path) == 7


def test_a_file_is_read_under_one_name(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    (tmp_path / "pool.png").write_bytes(picture())
    links = {"cat/1.png": "../dog/b.png", "cat/2.png": "../../test/cat/z.png", "cat/3.png": tmp_path / "pool.png"}
    for name, target in {**links, "dog/4.png": "../cat/3.png"}.items():
        (path / "train" / name).symlink_to(target)
    names = ", ".join(f"train/{name} (a link to a file that is read already)" for name in ("cat/1.png", "cat/2.png"))
    assert notice(path, 6).partition(": ")[2] == f"{names}, train/dog/4.png (a link to a file that is read already)"


@pytest.mark.parametrize(("part", "other"), [("test", "train"), ("val", "train"), ("train", "test")])
def test_a_part_that_is_a_link_to_the_other_is_refused(part: str, other: str, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    (path / ("test" if part == "val" else part)).rename(tmp_path / "aside")
    (path / part).symlink_to(other)
    assert f" folder ({part} is a link to a folder that is read already): expected " in refusal(path)


def test_a_part_may_be_a_link_to_another_name_of_it(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    (path / "test").rename(path / "val")
    (path / "test").symlink_to("val")
    assert len(load(str(path), progress=False).test) == 2


# Files only


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_is_no_file_is_left_out_and_never_opened(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes())
    os.mkfifo(path / "train" / "cat" / "pipe.jpg")
    (path / "train" / "cat" / "device.png").symlink_to("/dev/zero")
    (path / "train" / "cat" / "gone.png").symlink_to("nowhere")
    (path / "train" / "cat" / "self.png").symlink_to("self.png")
    assert notice(path, 5).partition(": ")[2] == (
        "train/cat/device.png (no regular file), train/cat/gone.png (a link to nothing), "
        "train/cat/pipe.jpg (no regular file), train/cat/self.png (a link to nothing)"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_zip(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pets.zip")
    assert "pets.zip is neither a folder nor a zip file" in refusal(tmp_path / "pets.zip")


def test_links_and_devices_in_a_zip_are_left_out(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets", two_classes())
    with zipfile.ZipFile(path, "a") as zipped:
        for name, kind in (("link.png", stat.S_IFLNK), ("pipe.png", stat.S_IFIFO)):
            entry = zipfile.ZipInfo(f"train/cat/{name}")
            entry.external_attr = (kind | 0o644) << 16
            zipped.writestr(entry, "../dog/b.png")
    assert "train/cat/link.png (no regular file), train/cat/pipe.png (no regular file)" in notice(path, 5)


def test_only_the_first_files_that_are_left_out_are_named(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", two_classes() | {f"train/cat/{k}.tga": b"" for k in range(1, 8)})
    assert notice(path, 5) == (
        f"7 files of {path} are left out: train/cat/1.tga (no image by its name), train/cat/2.tga (no image by its "
        "name), train/cat/3.tga (no image by its name), train/cat/4.tga (no image by its name), train/cat/5.tga (no "
        "image by its name), 2 more"
    )


# Sizes


@pytest.mark.parametrize("way", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_unpacks_to_a_large_image_is_refused(
    way: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    path = make_zip(tmp_path / "pets", two_classes())
    with zipfile.ZipFile(path, "a", way) as zipped:
        zipped.writestr("train/cat/02.png", picture() + bytes(3 * 2**20))
    assert refusal(path) == (
        f"train/cat/02.png in {path} has 3 MiB, but a file of at most 1 MiB is read: "
        "remove it, or save the image in a smaller size"
    )


def test_a_zip_whose_images_together_unpack_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "UNPACKED", 2**20)
    path = make_zip(tmp_path / "pets", two_classes())
    assert count(path) == 5
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(4):
            zipped.writestr(f"train/cat/more-{number}.png", picture() + bytes(2**20))
    assert f"{path} unpacks to 0.0 GiB, but at most 0.0 GiB are read from it" in refusal(path)


def test_large_files_that_are_no_images_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    path = make_zip(tmp_path / "pets", two_classes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("videos.tar", bytes(2 * 2**20))
    assert count(path) == 5
