"""What every target has in common: what it needs, what it is given, what it says of what was written."""

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
from qffs.nn.inspect import empty_like
from qffs.spiking.network import SpikingNetwork

Network = fx.GraphModule | SpikingNetwork


@dataclass(frozen=True)
class Written:
    """What was written: the ``path``, the ``steps`` T of a spiking network, and what was found on reading it back.

    ``deviation``: the largest difference of its outputs from the network's own, on inputs of another batch than it was
    written with; None where nothing here can run it. ``note``: what else there is to know, in a sentence.
    """

    path: Path
    kind: str
    steps: int | None = None
    deviation: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A form that a network can be written in.

    ``kinds``: of which networks, as `qffs.models.checkpoint.kind_of` tells them apart; ``write``: takes network and
    path, and by name what ``takes`` lists; ``modules`` are imported, and come with the ``extra`` of that name;
    ``folder``: whether it writes a folder.
    """

    name: str
    gives: str
    kinds: tuple[str, ...]
    write: Callable[..., Written]
    takes: frozenset[str] = frozenset()
    extra: str = ""
    modules: tuple[str, ...] = ()
    folder: bool = False

    def check(self, network: nn.Module) -> str:
        """The kind of a network; raises `InvalidArgument` where the target takes none of it, or lacks its library."""
        if not isinstance(network, SpikingNetwork | fx.GraphModule):
            raise InvalidArgument(
                f"{self.name} takes what qffs.quantize or qffs.to_spiking returned, not a {type(network).__name__}"
            )
        kind = kind_of(network)
        if kind not in self.kinds:
            raise InvalidArgument(f"{self.name} takes a network of kind {' or '.join(self.kinds)}, not {kind}")
        self.installed()
        return kind

    def installed(self) -> None:
        """Raise `InvalidArgument` where its library is not installed."""
        for module in self.modules:
            try:
                import_module(module)
            except ImportError as error:
                raise InvalidArgument(
                    f"{self.name} needs {module}, which is not installed: pip install 'qffs[{self.extra}]'"
                ) from error


def steps_of(network: nn.Module, steps: int | None) -> int | None:
    """T of a spiking network: as asked for, else 8 and at least 2 D; None for others, which have no steps.

    Raises `InvalidArgument` where T < D, or steps are asked of a network that has none.
    """
    if not isinstance(network, SpikingNetwork):
        if steps is not None:
            raise InvalidArgument("a quantized network has no time steps: convert it with qffs.to_spiking first")
        return None
    return len(network.schedule.over(network.schedule.usual_steps if steps is None else steps))


def examples(network: nn.Module, batch: int, inputs: Tensor | Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """Inputs ``[batch, ...]`` that a network can take: random ones of its example's shape, or the given ones, repeated.

    Raises `InvalidArgument` where the given ones are not as many as the network takes, or empty, and `NotConvertible`
    where the network has lost the shapes of its example.
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
    own = empty_like(graph)
    found: list[Tensor] = []
    for node in graph.graph.find_nodes(op="placeholder"):
        if not has_site(node):
            raise NotConvertible(f"the network has lost the shape of its input {node.name}: quantize it again")
        generator = torch.Generator().manual_seed(len(found))
        x = torch.randn((batch, *(site(node).shape or ())[1:]), generator=generator, dtype=torch.float64)
        found.append(x.to(own))
    return tuple(found)


def tried(snn: SpikingNetwork, inputs: Tensor | Sequence[Tensor], shown: int) -> tuple[Tensor, ...]:
    """Inputs ``[B, ...]`` in float64 on the CPU: the given ones, or so many random ones.

    Raises `InvalidArgument` where they are not those of the network.
    """
    own = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    nodes = snn.graph.graph.find_nodes(op="placeholder")
    if own:
        wanted = [tuple(tensor_shape(node)[1:]) for node in nodes]
        fit = len(own) == len(wanted) and all(
            x.dim() and tuple(x.shape[1:]) == w for x, w in zip(own, wanted, strict=True)
        )
        if not fit or len({len(x) for x in own}) != 1 or not len(own[0]):
            shapes = ", ".join(f"[B, {', '.join(map(str, each))}]" for each in wanted)
            raise InvalidArgument(f"the network takes inputs of {shapes}, not {[list(x.shape) for x in own]}")
    found = own or examples(snn, shown)
    return tuple(x.detach().to("cpu", torch.float64) for x in found)


CLOSE = 1e-9
"""How far outputs in float64 may differ, times the largest of them or 1: sums are done in another order."""


def close(found: Sequence[Tensor], expected: Sequence[Tensor], where: str) -> float:
    """The largest difference of outputs; raises `Mismatch` where it is more than `CLOSE`."""
    deviation = apart(found, expected)
    if deviation > CLOSE * max([1.0, *(float(each.abs().max()) for each in expected if each.numel())]):
        raise Mismatch(f"{where}, an output would differ by {deviation:.1g}")
    return deviation


def apart(found: Any, expected: Any) -> float:
    """The largest absolute difference of outputs, in any nesting; infinite where shapes or infinities differ.

    >>> apart([torch.tensor([1.0, torch.inf])], torch.tensor([1.5, torch.inf]))
    0.5
    >>> apart(torch.tensor([torch.nan]), torch.tensor([0.0])), apart(torch.zeros(1), torch.zeros(2))
    (inf, inf)
    """
    differences = [0.0]
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        if one.shape != other.shape:
            return math.inf
        one, other = one.double(), other.double()
        same = (one == other) | (one.isnan() & other.isnan())
        differences.append(float(torch.where(same, 0.0, (one - other).abs().nan_to_num(math.inf)).max()))
    return max(differences)
