"""The class of each image in an archive: from one folder per class, or from Kaggle's list for ImageNet's flat val.

Images without classes, in a folder or zip without train and test, can be read for what needs no labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qffs.data.archive import PARTS, Archive
from qffs.errors import DataError

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif",
)  # fmt: skip
"""The ends of the names of images, in lower case; the content decides the format."""
SOLUTION = "LOC_val_solution.csv"
"""Kaggle's list of the classes in ImageNet's val: a heading, then one line per image, ``name,class and a box, ...``."""

_EXPECTED = f"expected train/<class>/*.jpg and test/<class>/*.jpg (or val; also {', '.join(SUFFIXES[1:])})"

NO_IMAGE = "no image by its name"
"""The reason to leave a file out that has none of the `SUFFIXES`."""

TESTED = 8
"""One of so many images without labels is a test image."""
UNLABELED = "holds images without labels, which only qffs quantize takes"

Classes = dict[str, list[str]]


@dataclass(frozen=True)
class Layout:
    """The image files of each class in the training part and in the test part; classes and files are sorted by name.

    left_out: the other names in these parts, each with the reason why it is left out. labeled: whether the classes are
    known; if not, all images are of one class without a name.
    """

    train: Classes
    test: Classes
    left_out: dict[str, str]
    labeled: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, which are the same in both parts."""
        return tuple(self.train)


def read_layout(archive: Archive, unlabeled: bool = False) -> Layout:
    """Return the image files of an archive by class.

    unlabeled: accept an archive without parts, whose images have no class; every `TESTED`-th image is a test image.
    Raises `DataError` if a part or a class has no images, if an image has no class, or if the classes of the two parts
    differ.
    """
    if not any(name.startswith(tuple(f"{part}/" for part in PARTS)) for name in archive.names):
        images = sorted(filter(_is_image, archive.names))
        if len(images) >= TESTED and not unlabeled:
            raise DataError(f"{archive.path} {UNLABELED}: {_EXPECTED}")
        if len(images) >= TESTED:
            others = (name for name in archive.names if not _is_image(name) and not name.endswith("/"))
            left_out = dict(archive.left_out) | dict.fromkeys(others, NO_IMAGE)
            tested = images[TESTED - 1 :: TESTED]
            return Layout({"": sorted({*images} - {*tested})}, {"": tested}, left_out, labeled=False)
    left_out = {}
    train, test = _classes(archive, left_out, "train"), _classes(archive, left_out, "test", "val")
    if train.keys() != test.keys():
        only = [f"{part} has no {cls}" for part, cls in _differences(train.keys(), test.keys())]
        raise DataError(f"the classes of train and test differ in {archive.path}: {', '.join(only)}")
    return Layout(train, test, left_out)


def _classes(archive: Archive, left_out: dict[str, str], *parts: str) -> Classes:
    """Return the image files of each class in the first of ``parts`` that exists and is sorted by class.

    Adds the other names of this part to ``left_out``, each with the reason.
    """
    existing = [part for part in parts if any(name.startswith(f"{part}/") for name in archive.names)]
    if not existing:
        links = "".join(f" ({part} is {archive.left_out[part]})" for part in parts if part in archive.left_out)
        raise DataError(f"{archive.path} has no {' or '.join(parts)} folder{links}: {_EXPECTED}")
    # ImageNet's own archive has a test part without labels, in addition to its val.
    part = next((part for part in existing if _sorted_by_class(archive, part)), existing[-1])
    names = [name for name in archive.names if name.startswith(f"{part}/")]
    left_out |= {name: why for name, why in archive.left_out.items() if name.startswith(f"{part}/")}
    left_out |= {name: NO_IMAGE for name in names if not _is_image(name) and not name.endswith("/")}
    if part == "val" and not _sorted_by_class(archive, part):
        classes = _solved(archive, [name for name in names if _is_image(name)])
    else:
        classes = _by_folder(archive, names)
    if not any(classes.values()):
        raise DataError(f"{archive.label(part)} holds no images: {_EXPECTED}")
    for cls, files in sorted(classes.items()):
        if not files:
            ends = ", ".join(SUFFIXES)
            raise DataError(f"the class folder {archive.label(f'{part}/{cls}')} holds no image: no file ends in {ends}")
    return {cls: sorted(classes[cls]) for cls in sorted(classes)}


def _sorted_by_class(archive: Archive, part: str) -> bool:
    """Return whether a part contains folders."""
    return any(name.startswith(f"{part}/") and name.count("/") > 1 for name in archive.names)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _by_folder(archive: Archive, names: Iterable[str]) -> Classes:
    """Return the image files in each class folder of a part."""
    classes: Classes = {}
    for name in names:
        _, *between, _ = name.split("/")
        if between:
            classes.setdefault(between[0], [])
        if _is_image(name):
            if not between:
                raise DataError(f"{archive.label(name)} lies in no class folder: {_EXPECTED}")
            classes[between[0]].append(name)
    return classes


def _solved(archive: Archive, names: Iterable[str]) -> Classes:
    """Return the image files of a flat val by the classes in Kaggle's list."""
    content, classes = archive.beside(SOLUTION), Classes()
    lines = (content or b"").decode("utf-8", "replace").splitlines()
    class_and_boxes = {line.partition(",")[0]: line.partition(",")[2].split() for line in lines}
    for name in names:
        if content is None:
            raise DataError(
                f"{archive.label(name)} lies in no class folder: sort val into one folder per class (the script "
                f"valprep.sh does it), or put Kaggle's {SOLUTION} beside it"
            )
        words = class_and_boxes.get(name.split("/")[-1].rpartition(".")[0])
        if not words:
            raise DataError(f"{SOLUTION} does not say what {archive.label(name)} shows")
        classes.setdefault(words[0], []).append(name)
    return classes


def _differences(train: Iterable[str], test: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the first five classes that are in only one part, each as ``(part without it, class)``."""
    for cls in sorted(set(train) ^ set(test))[:5]:
        yield ("test" if cls in train else "train"), cls
