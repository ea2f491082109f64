"""The common part of all targets: their requirements, their inputs, and the report about the written file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.graph.nested import tensors
from qffs.graph.site import has_site, site, tensor_shape
from qffs.models.checkpoint import kind_of
from qffs.nn.inspect import check_finite, empty_like
from qffs.spiking.network import SpikingNetwork

Network = fx.GraphModule | SpikingNetwork


@dataclass(frozen=True)
class Written:
    """The report about an export.

    path: the file or folder. kind: the kind of the network: "snn", "qann" or "float". steps: T of a spiking network.
    deviation: the largest difference between the outputs of the written file and those of the network; None if the file
    was not run. note: one more sentence for the user.
    """

    path: Path
    kind: str
    steps: int | None = None
    deviation: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A form in which a network can be written.

    name: the name in ``qffs export``. gives: one line about the result, for the help. kinds: the kinds of networks that
    it takes, see `qffs.models.checkpoint.kind_of`. write: the function; it takes the network, the path, and the keyword
    arguments in ``takes``. modules: the modules that it imports. extra: the extra of the package that installs them.
    folder: whether it writes a folder. marks: for a file, its first bytes, and others that it contains: by them
    ``qffs export`` recognizes a file that it may replace.
    """

    name: str
    gives: str
    kinds: tuple[str, ...]
    write: Callable[..., Written]
    takes: frozenset[str] = frozenset()
    extra: str = ""
    modules: tuple[str, ...] = ()
    folder: bool = False
    marks: tuple[bytes, ...] = (b"",)

    def check(self, network: nn.Module) -> str:
        """Return the kind of a network; raise `InvalidArgument` if the target cannot take it, or lacks a library.

        Raises `Diverged` if a weight is NaN or infinite.
        """
        if not isinstance(network, SpikingNetwork | fx.GraphModule):
            raise InvalidArgument(
                f"{self.name} takes what qffs.quantize or qffs.to_spiking returned, not a {type(network).__name__}"
            )
        kind = kind_of(network)
        if kind not in self.kinds:
            raise InvalidArgument(f"{self.name} takes a network of kind {' or '.join(self.kinds)}, not {kind}")
        check_finite(network)
        self.installed()
        return kind

    def installed(self) -> None:
        """Raise `InvalidArgument` if a library of the target is not installed."""
        for module in self.modules:
            try:
                import_module(module)
            except ImportError as error:
                raise InvalidArgument(
                    f"{self.name} needs {module}, which is not installed: pip install 'qffs[{self.extra}]'"
                ) from error


def steps_of(network: nn.Module, steps: int | None) -> int | None:
    """Return T for a spiking network: ``steps``, by default 8, or 2 D if that is larger; None for other networks.

    Raises `InvalidArgument` if T < D, or if ``steps`` is passed for a network that is not spiking.
    """
    if not isinstance(network, SpikingNetwork):
        if steps is not None:
            raise InvalidArgument("a quantized network has no time steps: convert it with qffs.to_spiking first")
        return None
    return len(network.schedule.over(network.schedule.usual_steps if steps is None else steps))


def examples(network: nn.Module, batch: int, inputs: Tensor | Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """Return inputs ``[batch, ...]`` for a network: ``inputs``, repeated or cut, or by default random numbers.

    Raises `InvalidArgument` if the number of ``inputs`` is not that of the network, or if one is empty, and
    `NotConvertible` if the network no longer has the shapes of its example.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    graph = network.graph if isinstance(network, SpikingNetwork) else network
    assert isinstance(graph, fx.GraphModule)
    count = len(graph.graph.find_nodes(op="placeholder"))
    if inputs:
        if len(inputs) != count or not all(x.dim() and len(x) for x in inputs):
            raise InvalidArgument(
                f"the network takes {count} inputs with a batch in dimension 0: give an example of each"
            )
        return tuple(torch.cat([x] * -(-batch // len(x)))[:batch] for x in inputs)
    empty = empty_like(graph)
    random: list[Tensor] = []
    for node in graph.graph.find_nodes(op="placeholder"):
        if not has_site(node):
            raise NotConvertible(f"the network has lost the shape of its input {node.name}: quantize it again")
        generator = torch.Generator().manual_seed(len(random))
        x = torch.randn((batch, *(site(node).shape or ())[1:]), generator=generator, dtype=torch.float64)
        random.append(x.to(empty))
    return tuple(random)


def inputs_to_try(snn: SpikingNetwork, inputs: Tensor | Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """Return inputs ``[B, ...]`` in float64 on the CPU: ``inputs``, or by default ``count`` random images.

    Raises `InvalidArgument` if the number or the shapes of ``inputs`` do not fit the network.
    """
    values = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    nodes = snn.graph.graph.find_nodes(op="placeholder")
    if values:
        expected = [tuple(tensor_shape(node)[1:]) for node in nodes]
        fit = len(values) == len(expected) and all(
            x.dim() and tuple(x.shape[1:]) == w for x, w in zip(values, expected, strict=True)
        )
        if not fit or len({len(x) for x in values}) != 1 or not len(values[0]):
            shapes = ", ".join(f"[B, {', '.join(map(str, each))}]" for each in expected)
            raise InvalidArgument(f"the network takes inputs of {shapes}, not {[list(x.shape) for x in values]}")
    chosen = values or examples(snn, count)
    return tuple(x.detach().to("cpu", torch.float64) for x in chosen)


CLOSE = 1e-9
"""The tolerance for outputs in float64, relative to the largest output or 1, because sums have another order."""


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], where: str) -> float:
    """Return the largest difference of outputs; raise `Mismatch` if it is above the tolerance `CLOSE`."""
    deviation = apart(actual, expected)
    if deviation > CLOSE * max([1.0, *(float(each.abs().max()) for each in expected if each.numel())]):
        raise Mismatch(f"{where}, an output would differ by {deviation:.1g}")
    return deviation


def apart(actual: Any, expected: Any) -> float:
    """Return the largest absolute difference of nested outputs; infinity if shapes or infinite values differ.

    >>> apart([torch.tensor([1.0, torch.inf])], torch.tensor([1.5, torch.inf]))
    0.5
    >>> apart(torch.tensor([torch.nan]), torch.tensor([0.0])), apart(torch.zeros(1), torch.zeros(2))
    (inf, inf)
    """
    differences = [0.0]
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        if one.shape != other.shape:
            return math.inf
        one, other = one.double(), other.double()
        same = (one == other) | (one.isnan() & other.isnan())
        differences.append(float(torch.where(same, 0.0, (one - other).abs().nan_to_num(math.inf)).max()))
    return max(differences)
