"""What is known of a node: one record, written by those who find something out, read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from torch import fx

KEY = "site"
"""Where a node keeps its record in ``node.meta``."""


class Kind(StrEnum):
    """What a node is in the spiking network."""

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
    """One node of a graph: where it comes from, what its value looks like, and what it becomes.

    Tracing finds out

    - ``source``: file and line of the network's own code, where there is one;
    - ``in_place``: whether the call changed a tensor that it read;
    - ``shape``: of its value on the example, None where that is no tensor;
    - ``batch``: the dimension that holds the images, and how many rows each image has there (of several tensors in
      their nesting; None where the value is the same for every batch);
    - ``rounds``: whether it makes whole numbers of floating ones;
    - ``problem``: why it cannot be converted, if so.

    `qffs.graph.classify.classify` adds

    - ``operator``: its name in the table of operators, whatever the form of the call; None where it has none;
    - ``kind`` (None before), and ``why`` in words;
    - ``values``: whether it sends values where neurons send single spikes;
    - ``analog``: whether it is computed from the network's input without passing a neuron;
    - ``unit``: whether each spike on its way is one of a neuron, of one threshold for all (``"one"``) or of one for
      each ``"channel"``; else None.
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
        """Whether the value of the node changes over time."""
        return self.kind is not None and self.kind is not Kind.PLAIN


def site(node: fx.Node) -> Site:
    """Return what is known of a node.

    >>> site(fx.Graph().placeholder("x")).kind is None
    True
    """
    known: Site = node.meta.get(KEY, _NEW)
    return known


def tensor_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the tensor that a node returns on the example."""
    shape = site(node).shape
    assert shape is not None, f"{node} returns no tensor"
    return shape


def has_site(node: fx.Node) -> bool:
    """Return whether anything is known of a node; a pickled graph forgets it."""
    return KEY in node.meta


def note(node: fx.Node, **changes: Any) -> None:
    """Write into the record of a node what has been found out about it: fields of `Site` by name."""
    node.meta[KEY] = replace(site(node), **changes)


_NEW = Site()
