"""The networks of torchvision and timm, untrained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any

from torch.library import Library

from qffs.errors import InvalidArgument
from qffs.models.arguments import Arguments, build
from qffs.models.source import Source, nearest, reporting


def of_torchvision(name: str, arguments: Arguments) -> Source:
    """Return an untrained classification network of torchvision; raise `InvalidArgument` if it cannot be built."""
    models = vision("torchvision.models")
    _check_known("torchvision", name, models.list_models(module=models))
    # Without init_weights, these two warn that their default will change.
    fixed = {"weights": None} | ({"init_weights": False} if name in {"googlenet", "inception_v3"} else {})
    with reporting(f"torchvision cannot build {name}"):
        network = build(f"torchvision:{name}", models.get_model_builder(name), fixed, arguments)
        side = int(arguments.get("image_size", 299 if name == "inception_v3" else 224))
    return Source(network, ((3, side, side),))


def of_timm(name: str, arguments: Arguments) -> Source:
    """Return an untrained network of timm; raise `InvalidArgument` if it cannot be built."""
    timm = vision("timm")
    if not timm.is_model(name):  # so create_model never receives names of files or of models on other hosts
        _check_known("timm", name, timm.list_models())
    with reporting(f"timm cannot build {name}"):
        network = build(f"timm:{name}", timm.create_model, {"model_name": name, "pretrained": False}, arguments)
        sizes = (getattr(network, "default_cfg", None) or {}).get("input_size")
        return Source(network, (_sizes(sizes, arguments),) if sizes else ())


def _sizes(sizes: Any, arguments: Arguments) -> tuple[int, ...]:
    """Return the shape of one image; arguments can change it, but timm's configuration keeps its own ``sizes``."""
    channels, *sides = sizes
    size = arguments.get("img_size", sides)
    height, width = (size, size) if isinstance(size, int) else size
    return int(arguments.get("in_chans", channels)), int(height), int(width)


LIBRARIES: dict[str, Callable[[str, Arguments], Source]] = {"torchvision": of_torchvision, "timm": of_timm}


def _check_known(library: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise InvalidArgument(f"{library} has no classification network {name!r}{nearest(name, names)}")


MISSING = ("nms", "qnms")
"""The operators that torchvision registers at its import, even if its compiled code, which defines them, is missing."""


def vision(name: str) -> Any:
    """Return the module with a name, such as ``torchvision.models`` or ``timm``.

    Raises `InvalidArgument` if the module is not installed or cannot be imported.
    """
    try:
        _import_torchvision()  # timm imports torchvision too
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {"torchvision", "timm"}:
            raise InvalidArgument(f"{name} is installed, but a module that it needs is not: {error}") from error
        raise InvalidArgument(f"{error.name} is not installed: pip install 'qffs[vision]'") from error
    except Exception as error:  # the type of the error depends on these libraries
        raise InvalidArgument(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_torchvision() -> None:
    """Import torchvision.

    If the installed torch is of another build, torchvision's compiled code is not loaded and its import fails: then
    define the missing schemas and import it again.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        _define()
        for module in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        import_module("torchvision")


@cache
def _define() -> Library:
    """Return a library with the two schemas, without kernels, because classification does not call them.

    The result is cached, because the schemas exist only as long as the library object.
    """
    library = Library("torchvision", "FRAGMENT")
    for name in MISSING:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
