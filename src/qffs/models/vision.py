"""torchvision and timm, imported when a network of theirs is asked for: the extra ``vision``."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

from torch.library import Library

from qffs.errors import InvalidArgument

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
