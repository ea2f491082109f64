"""A network in full precision, with the shapes of its inputs."""

from __future__ import annotations

import difflib
import importlib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qffs.errors import InvalidArgument, QffsError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """A network in full precision.

    network: the network. shapes: the shapes of its inputs, without the batch; empty if they are not known.
    """

    network: nn.Module
    shapes: tuple[Shape, ...] = ()


def shape_of(text: str) -> Shape:
    """Return the shape of one input that a user wrote; raise `InvalidArgument` if it is no shape.

    >>> shape_of("3x32x32")
    (3, 32, 32)
    """
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}(x0*[1-9][0-9]{0,8})*", text):
        raise InvalidArgument(f"the shape of an input is written like 3x224x224, not {text!r}")
    return tuple(int(size) for size in text.split("x"))


def example(name: str, source: Source, shapes: Iterable[Shape] = ()) -> tuple[torch.Tensor, ...]:
    """Return a batch of two random inputs for each shape, in the type of the weights.

    name: the name of the network in messages. shapes: by default the shapes of the source. Raises `InvalidArgument` if
    no shape is known, or if memory is too small.
    """
    sizes = tuple(shapes) or source.shapes
    if not sizes:
        raise InvalidArgument(f"{name} does not say what it takes: give the shape of an input, as in --input 3x224x224")
    floating = [tensor.dtype for tensor in source.network.state_dict().values() if tensor.is_floating_point()]
    generator, dtype = torch.Generator().manual_seed(0), next(iter(floating), torch.float32)
    try:
        return tuple(torch.rand(2, *shape, generator=generator, dtype=dtype) for shape in sizes)
    except RuntimeError as error:
        raise InvalidArgument(f"an input of {show(sizes)} is too large: {error}") from error


def show(shapes: Iterable[Shape]) -> str:
    """Return shapes in the form in which a user writes them.

    >>> show([(3, 32, 32), (10,)])
    '3x32x32, 10'
    """
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the similar ones of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names))
    return f"; nearest to it: {', '.join(close)}" if close else ""


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Raise `InvalidArgument`, with file and line, instead of any error or ``sys.exit`` of code from elsewhere."""
    try:
        yield
    except QffsError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidArgument(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame that is not in this package, in torch, or in the import system."""
    names = ("arguments", "find", "function", "libraries", "source")
    ours = {str(Path(__file__).with_name(f"{name}.py")) for name in names}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours
        and frame.filename != importlib.__file__
        and not frame.filename.startswith("<")
        and "torch" not in Path(frame.filename).parts
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
