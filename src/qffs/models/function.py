"""The network that a user's function returns."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from typing import Any

from torch import nn

from qffs.errors import InvalidArgument
from qffs.models.arguments import Arguments, check
from qffs.models.libraries import LIBRARIES
from qffs.models.source import nearest, reporting


def of_function(path: str, attribute: str, arguments: Arguments) -> nn.Module:
    """Return the network that the function ``attribute`` of the module ``path`` returns for these arguments.

    If ``attribute`` is a network itself, it is returned. The module is searched in the current folder first. Raises
    `InvalidArgument` if there is no such module or attribute, if the function refuses the arguments or raises an error,
    or if the result is not an `nn.Module`.
    """
    name = f"{path}:{attribute}"
    if os.getcwd() not in sys.path:  # never removed: the code of the network may import more later
        sys.path.insert(0, os.getcwd())
    value = _attribute(_module(path), path, attribute)
    if isinstance(value, nn.Module):
        if arguments:
            raise InvalidArgument(f"{name} is a network that has been built: it takes no arguments")
        return value
    if not callable(value):
        raise InvalidArgument(f"{name} is a {type(value).__name__}, neither an nn.Module nor a function that makes one")
    check(name, value, arguments)
    with reporting(f"{name} raised an error"):
        network = value(**arguments)
    if not isinstance(network, nn.Module):
        raise InvalidArgument(f"{name} returned a {type(network).__name__}, where an nn.Module is needed")
    return network


def _module(path: str) -> Any:
    try:
        with reporting(f"{path} cannot be imported"):
            return importlib.import_module(path)
    except InvalidArgument as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{path}.".startswith(f"{missing}."):
            raise
        script = f"; write {path[:-3]}:... without .py" if path.endswith(".py") else nearest(path, LIBRARIES)
        raise InvalidArgument(f"there is no module {missing} in this folder or among the installed{script}") from error


def _attribute(module: Any, path: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        names = [each for each in dir(module) if not each.startswith("_")]
        raise InvalidArgument(f"{path} has no {attribute!r}{nearest(attribute, names)}") from error
