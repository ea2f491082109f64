"""The record of a node, `Site`: tracing and classifying write it, all other passes read it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import fx

KEY = "site"
"""The key of the record in ``node.meta``."""


class Kind(StrEnum):
    """The kind of a node in the spiking network; see `qffs.graph.rules` and the glossary."""

    INPUT = "input"
    PLAIN = "plain"
    LINEAR = "linear"
    SUM = "sum"
    JOIN = "join"
    SPIKING = "spiking"
    DIFFERENCED = "differenced"
    FOLDED = "folded"
    OUTPUT = "output"
    REFUSED = "refused"


@dataclass(frozen=True)
class Site:
    """The record of one node: its source, the form of its value, and what it becomes.

    Tracing writes

    - ``source``: file and line of the network's own code, where there is one;
    - ``in_place``: whether the call changed a tensor that it read;
    - ``shape``: the shape of its value on the example, None where the value is no tensor;
    - ``batch``: the dimension that holds the images, and the number of rows per image there, as a pair; for a
      nested value a nesting of pairs; None where the value is the same for every batch;
    - ``rounds``: whether it turns floating-point numbers into whole numbers;
    - ``problem``: the reason why it cannot be converted, else None.

    `qffs.graph.classify.classify` adds

    - ``operator``: its name in the table of operators, whatever the form of the call; None where it has none;
    - ``kind``: what it becomes (None before it is classified), and ``why``: the reason in words;
    - ``values``: whether it sends values (neurons send single spikes);
    - ``analog``: whether it is computed from the network's input without passing a neuron;
    - ``unit``: where it sends single spikes, whether all neurons share one threshold (``"one"``) or the neurons of each
      channel have their own (``"channel"``); None where it sends anything else.
    """

    source: tuple[str, int] | None = None
    in_place: bool = False
    shape: tuple[int, ...] | None = None
    batch: Any = None
    rounds: bool = False
    problem: str | None = None
    operator: str | None = None
    kind: Kind | None = None
    why: str = ""
    values: bool = False
    analog: bool = False
    unit: Literal["one", "channel"] | None = None

    @property
    def signal(self) -> bool:
        """True where the value of the node changes over time."""
        return self.kind is not None and self.kind is not Kind.PLAIN


def site(node: fx.Node) -> Site:
    """Return the record of a node; an empty record where nothing has been written.

    >>> site(fx.Graph().placeholder("x")).kind is None
    True
    """
    record: Site = node.meta.get(KEY, _NEW)
    return record


def tensor_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the tensor that a node returns on the example."""
    shape = site(node).shape
    assert shape is not None, f"{node} returns no tensor"
    return shape


def has_site(node: fx.Node) -> bool:
    """Return whether a node has a record. Pickling a graph loses them."""
    return KEY in node.meta


def note(node: fx.Node, **changes: Any) -> None:
    """Change the record of a node: ``changes`` are fields of `Site` by name."""
    node.meta[KEY] = replace(site(node), **changes)


def source(frame: FrameType | None = None) -> tuple[str, int] | None:
    """Return file and line of the network's own code that runs now; None where only code of torch runs.

    frame: where the search starts; by default, at the caller.
    """
    frame = frame or sys._getframe(1)
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<")):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def described(node: fx.Node) -> str:
    """Return file name and line of a node in the network's source, as the end of a message; "" where it has none.

    >>> described(fx.Graph().placeholder("x"))
    ''
    """
    line = site(node).source
    return f", {Path(line[0]).name}, line {line[1]}" if line else ""


def line_at(frame: FrameType) -> str:
    """Return file name and line of the network's own code that runs in a frame, for a message."""
    line = source(frame)
    return f"{Path(line[0]).name}, line {line[1]}" if line else "within torch"


_NEW = Site()
_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
