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
    """A classification network of torchvision; raises `InvalidArgument`."""
    models = vision("torchvision.models")
    _check_known("torchvision", name, models.list_models(module=models))
    # Not told how to begin, these two warn that their default will change.
    told = {"weights": None} | ({"init_weights": False} if name in {"googlenet", "inception_v3"} else {})
    with reporting(f"torchvision cannot build {name}"):
        network = build(f"torchvision:{name}", models.get_model_builder(name), told, arguments)
        side = int(arguments.get("image_size", 299 if name == "inception_v3" else 224))
    return Source(network, ((3, side, side),))


def of_timm(name: str, arguments: Arguments) -> Source:
    """A network of timm; raises `InvalidArgument`."""
    timm = vision("timm")
    if not timm.is_model(name):  # so names of files and of other hosts' models never reach create_model
        _check_known("timm", name, timm.list_models())
    with reporting(f"timm cannot build {name}"):
        network = build(f"timm:{name}", timm.create_model, {"model_name": name, "pretrained": False}, arguments)
        sizes = (getattr(network, "default_cfg", None) or {}).get("input_size")
        return Source(network, (_sizes(sizes, arguments),) if sizes else ())


def _sizes(sizes: Any, arguments: Arguments) -> tuple[int, ...]:
    """The shape of an image, which timm does not change where arguments do."""
    channels, *sides = sizes
    given = arguments.get("img_size", sides)
    height, width = (given, given) if isinstance(given, int) else given
    return int(arguments.get("in_chans", channels)), int(height), int(width)


LIBRARIES: dict[str, Callable[[str, Arguments], Source]] = {"torchvision": of_torchvision, "timm": of_timm}


def _check_known(library: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InvalidArgument(f"{library} has no classification network {name!r}{nearest(name, known)}")


MISSING = ("nms", "qnms")
"""The operators that torchvision describes at its import even where it has no compiled code that defines them."""


def vision(name: str) -> Any:
    """The module of a name, such as ``torchvision.models`` or ``timm``.

    Raises `InvalidArgument` where it is not installed, or does not import.
    """
    try:
        _import_torchvision()  # timm imports it too
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {"torchvision", "timm"}:
            raise InvalidArgument(f"{name} is installed, but not all it needs: {error}") from error
        raise InvalidArgument(f"{error.name} is not installed: pip install 'qffs[vision]'") from error
    except Exception as error:  # which one is up to those libraries
        raise InvalidArgument(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_torchvision() -> None:
    """Import torchvision; beside a torch of another build, with the schemas that its compiled code did not define."""
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
    """The two schemas, without kernels: classification calls none. Cached, because they go when the library goes."""
    library = Library("torchvision", "FRAGMENT")
    for name in MISSING:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
