"""Networks from names: of this library, trained or not, of torchvision or timm, of a function, or a checkpoint."""

from __future__ import annotations

import os
import re
from typing import Any

from torch import fx

from qffs.errors import InvalidArgument
from qffs.graph.site import site
from qffs.models import MODELS, build
from qffs.models.arguments import Arguments, check
from qffs.models.libraries import LIBRARIES
from qffs.models.source import Shape, Source, example, nearest, reporting, shape_of, show
from qffs.models.weights import load_weights, read_weights

__all__ = ["FORMS", "Shape", "Source", "example", "find", "shape_of", "show"]

FORMS = (
    f"{', '.join(MODELS)}, torchvision:NAME, timm:NAME, package.module:function, the folder of a checkpoint, and the "
    "trained networks that qffs networks lists"
)


def find(name: str, weights: str | None = None, arguments: Arguments | None = None) -> Source:
    """Return the network with a name in one of the `FORMS`, and the shapes of its inputs.

    weights: a safetensors or torch file, or the folder of a float checkpoint, from which the weights are loaded.
    arguments: keyword arguments for the function that builds the network, such as ``classes=100``, or ``num_classes``
    for torchvision and timm; a checkpoint takes no arguments.
    Raises `InvalidArgument` if there is no such network or it cannot be built with these arguments, and
    `CheckpointError` if a checkpoint is damaged or is not of a float network, or if the weights do not fit.

    >>> find("digits_net").shapes
    ((1, 8, 8),)
    """
    source = _named(name, arguments or {})
    if weights is not None:
        load_weights(source.network, read_weights(weights), weights)
    return source


def _named(name: str, arguments: Arguments) -> Source:
    library, colon, rest = name.partition(":")
    if name in MODELS:
        return _of_ours(name, arguments)
    if os.path.isdir(os.path.expanduser(name)):
        return _of_checkpoint(name, arguments, "name one of a float network, which demo writes to its folder float")
    if colon and library in LIBRARIES:
        return LIBRARIES[library](rest, arguments)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        from qffs.models.function import of_function  # imported here because few networks need it

        return Source(of_function(library, rest, arguments))
    return _of_library(name, arguments)


def _of_ours(name: str, arguments: Arguments) -> Source:
    if arguments:
        check(name, MODELS[name], arguments)
    with reporting(f"{name} cannot be built"):
        network: Any = build(name, **arguments)
    return Source(network, (network.image_shape,))


def _of_library(name: str, arguments: Arguments) -> Source:
    from qffs.models import trained  # imported here because few networks need it

    if not trained.is_name(name):
        close = nearest(name, [*MODELS, *trained.names()])
        raise InvalidArgument(f"there is no model {name!r}; there are {FORMS}{close}{_elsewhere(name)}")
    advice = f"name {trained.card(name)['full_precision']}, from which it was made"
    return _of_checkpoint(name, arguments, advice)


def _of_checkpoint(source: str, arguments: Arguments, advice: str) -> Source:
    from qffs.models import checkpoint, trained  # imported here because it imports the simulation

    if arguments:
        raise InvalidArgument(f"{source} names a checkpoint: its network is built and takes no arguments")
    loaded = checkpoint.load(trained.folder(source) if trained.is_name(source) else source)
    checkpoint.check_kind(loaded, "float", source, advice)
    network = loaded.network
    assert isinstance(network, fx.GraphModule)
    shapes = [site(node).shape for node in network.graph.find_nodes(op="placeholder")]
    return Source(network, tuple(shape[1:] for shape in shapes if shape) if all(shapes) else ())


def _elsewhere(name: str) -> str:
    """Return the end of a message: how to write a bare name that is meant for another library."""
    return f"; of another library, write timm:{name} or torchvision:{name}" if re.fullmatch(r"\w+", name) else ""
