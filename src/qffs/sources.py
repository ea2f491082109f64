"""Networks from names: the library's own, those of torchvision and timm, a function of the user's, a checkpoint."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from qffs.checkpoint import load_kind
from qffs.errors import InvalidArgument
from qffs.models import MODELS, build
from qffs.vision import vision
from qffs.weights import load_weights, read_weights

Shape = tuple[int, ...]

FORMS = f"{', '.join(MODELS)}, torchvision:NAME, timm:NAME, package.module:function, and the folder of a checkpoint"


@dataclass(frozen=True)
class Source:
    """A float ``network``, and ``shapes``: those of its inputs, without the batch; none where it does not say."""

    network: nn.Module
    shapes: tuple[Shape, ...] = ()


def find(name: str, weights: str | None = None) -> Source:
    """The network of a name, in one of the `FORMS`, with the weights of a file where one is given.

    Raises `InvalidArgument` where there is no such network or it cannot be built, and `CheckpointError` where a
    checkpoint is damaged, is not of a float network, or the weights do not fit.

    >>> find("digits_net").shapes
    ((1, 8, 8),)
    """
    source = _named(name)
    if weights is not None:
        load_weights(source.network, read_weights(weights), weights)
    return source


def _named(name: str) -> Source:
    library, colon, rest = name.partition(":")
    if name in MODELS:
        network = build(name)
        return Source(network, (_sizes(network.image_shape),))
    if os.path.isdir(name):
        return _of_checkpoint(name)
    if colon and library in LIBRARIES:
        return LIBRARIES[library](rest)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        return Source(_of_function(library, rest))
    raise InvalidArgument(f"there is no model {name!r}; there are {FORMS}{_nearest(name, MODELS)}{_elsewhere(name)}")


def shape_of(text: str) -> Shape:
    """The shape of one input, as a user writes it; raises `InvalidArgument`.

    >>> shape_of("3x32x32")
    (3, 32, 32)
    """
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}(x0*[1-9][0-9]{0,8})*", text):
        raise InvalidArgument(f"the shape of an input is written like 3x224x224, not {text!r}")
    return tuple(int(size) for size in text.split("x"))


def example(name: str, source: Source, shapes: Iterable[Shape] = ()) -> tuple[torch.Tensor, ...]:
    """Two random inputs of these shapes, or of those the network takes by itself, in the type of its weights.

    name: of the network, for the message. Raises `InvalidArgument` where nobody says a shape, or memory is too small.
    """
    wanted = tuple(shapes) or source.shapes
    if not wanted:
        raise InvalidArgument(f"{name} does not say what it takes: give the shape of an input, as in --input 3x224x224")
    floating = [tensor.dtype for tensor in source.network.state_dict().values() if tensor.is_floating_point()]
    generator, dtype = torch.Generator().manual_seed(0), next(iter(floating), torch.float32)
    try:
        return tuple(torch.rand(2, *shape, generator=generator, dtype=dtype) for shape in wanted)
    except RuntimeError as error:
        raise InvalidArgument(f"an input of {show(wanted)} is too large: {error}") from error


def show(shapes: Iterable[Shape]) -> str:
    """Shapes as a user writes them.

    >>> show([(3, 32, 32), (10,)])
    '3x32x32, 10'
    """
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _sizes(sizes: Any) -> Shape:
    return tuple(int(size) for size in sizes)


def _of_checkpoint(folder: str) -> Source:
    network = load_kind("float", folder, "name one of a float network, which demo writes to its folder float").network
    assert isinstance(network, fx.GraphModule)
    shapes = [node.meta["shape"] for node in network.graph.find_nodes(op="placeholder")]
    return Source(network, tuple(shape[1:] for shape in shapes) if all(shapes) else ())


def _of_torchvision(name: str) -> Source:
    models = vision("torchvision.models")
    _check_known("torchvision", name, models.list_models(module=models))
    # Not told how to begin, these two warn that their default will change.
    told = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    with _reporting(f"torchvision cannot build {name}"):
        network = models.get_model(name, weights=None, **told)
    return Source(network, ((3, 299, 299) if name == "inception_v3" else (3, 224, 224),))


def _of_timm(name: str) -> Source:
    timm = vision("timm")
    if not timm.is_model(name):  # so names of files and of other hosts' models never reach create_model
        _check_known("timm", name, timm.list_models())
    with _reporting(f"timm cannot build {name}"):
        network = timm.create_model(name, pretrained=False)
    sizes = (getattr(network, "default_cfg", None) or {}).get("input_size")
    return Source(network, (_sizes(sizes),) if sizes else ())


LIBRARIES: dict[str, Callable[[str], Source]] = {"torchvision": _of_torchvision, "timm": _of_timm}


def _check_known(library: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InvalidArgument(f"{library} has no classification network {name!r}{_nearest(name, known)}")


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names))
    return f"; nearest to it: {', '.join(close)}" if close else ""


def _elsewhere(name: str) -> str:
    """How a bare name would be asked for in another library."""
    return f"; of another library, write timm:{name} or torchvision:{name}" if re.fullmatch(r"\w+", name) else ""


def _of_function(path: str, attribute: str) -> nn.Module:
    """What the user's function returns, or the module that stands there."""
    name = f"{path}:{attribute}"
    if os.getcwd() not in sys.path:  # and it stays there: the network's own code may import more, later
        sys.path.insert(0, os.getcwd())
    found = _attribute(_module(path), path, attribute)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InvalidArgument(f"{name} is a {type(found).__name__}, neither an nn.Module nor a function that makes one")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise InvalidArgument(f"{name} is called without arguments: {error}") from error
    except ValueError:  # what is not written in Python may have no signature: the call will tell
        pass
    with _reporting(f"{name} raised an error"):
        network = found()
    if not isinstance(network, nn.Module):
        raise InvalidArgument(f"{name} returned a {type(network).__name__}, where an nn.Module is needed")
    return network


def _module(path: str) -> Any:
    try:
        with _reporting(f"{path} cannot be imported"):
            return importlib.import_module(path)
    except InvalidArgument as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{path}.".startswith(f"{missing}."):
            raise
        script = f"; write {path[:-3]}:... without .py" if path.endswith(".py") else _nearest(path, LIBRARIES)
        raise InvalidArgument(f"there is no module {missing} in this folder or among the installed{script}") from error


def _attribute(module: Any, path: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        names = [each for each in dir(module) if not each.startswith("_")]
        raise InvalidArgument(f"{path} has no {attribute!r}{_nearest(attribute, names)}") from error


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """Turn whatever another's code raises, or a call of ``sys.exit``, into one sentence that says where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise InvalidArgument(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """File and line of the innermost code that is neither this file's, nor torch's, nor that of imports."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in {__file__, importlib.__file__}
        and not frame.filename.startswith("<")
        and "torch" not in Path(frame.filename).parts
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
