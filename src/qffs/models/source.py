"""A float network and what it takes."""

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
    """A float ``network``, and ``shapes``: those of its inputs, without the batch; none where it does not say."""

    network: nn.Module
    shapes: tuple[Shape, ...] = ()


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


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence that says a name does not exist: those of ``names`` that are like it, if any."""
    close = difflib.get_close_matches(name, list(names))
    return f"; nearest to it: {', '.join(close)}" if close else ""


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn whatever another's code raises, or a call of ``sys.exit``, into one sentence that says where."""
    try:
        yield
    except QffsError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidArgument(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """File and line of the innermost code that is neither this package's, nor torch's, nor that of imports."""
    names = ("find", "function", "libraries", "messages", "vision")
    own = {str(Path(__file__).with_name(f"{name}.py")) for name in names}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in own
        and frame.filename != importlib.__file__
        and not frame.filename.startswith("<")
        and "torch" not in Path(frame.filename).parts
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
