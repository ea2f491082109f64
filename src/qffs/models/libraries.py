"""The networks of torchvision and timm, untrained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from qffs.errors import InvalidArgument
from qffs.models.arguments import Arguments, build
from qffs.models.messages import nearest, reporting
from qffs.models.source import Source
from qffs.models.vision import vision


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
