"""A graph of NIR that is run: ours, with every spike, and its approximations as other tools run them."""

from __future__ import annotations

import graphlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import nir
import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.errors import CheckpointError, InvalidArgument
from qffs.method import Schedule

KEY = "qffs"
"""Where the metadata of a graph hold what this library says of it, in JSON."""
FORM = "qffs exact 1"


@dataclass(frozen=True)
class Firing:
    """How a tool runs NIR's integrate-and-fire node.

    ``at``: fires at the threshold, not only above it; ``subtract``: takes the threshold off, and does not set the
    potential to 0; ``several``: sends as many spikes at a step as the potential holds; ``floor``: keeps the potential
    at minus the threshold or above.
    """

    at: bool = False
    subtract: bool = False
    several: bool = False
    floor: bool = False

    def __call__(self, potential: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes, and the potential after them.

        >>> Firing()(torch.tensor([1.0, 2.5]), torch.ones(2))
        (tensor([0., 1.]), tensor([1., 0.]))
        >>> Firing(at=True, subtract=True, several=True)(torch.tensor([1.0, 2.5]), torch.ones(2))
        (tensor([1., 2.]), tensor([0.0000, 0.5000]))
        """
        spikes = (potential >= threshold if self.at else potential > threshold).to(potential)
        if self.several:
            spikes = (potential / threshold).floor().clamp_min(0.0)
        left = potential - spikes * threshold if self.subtract else torch.where(spikes > 0, 0.0, potential)
        return spikes, torch.maximum(left, -threshold) if self.floor else left


class NirNetwork:
    """A graph that runs step by step, from rest, in float64.

    In a time step every node takes in the sum of what its edges bring; what comes back to an integrator from itself was
    sent a step before.
    """

    def __init__(self, graph: nir.NIRGraph, firing: Firing = Firing()) -> None:
        self.nodes, self.edges, self.firing = graph.nodes, [tuple(edge) for edge in graph.edges], firing
        after: dict[str, set[str]] = {name: set() for name in self.nodes}
        for source, target in self.edges:
            after[source].add(target)
        reached = {name: _reached(after, name) for name, node in self.nodes.items() if isinstance(node, nir.I)}
        self.into: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.back: dict[str, list[str]] = {name: [] for name in self.nodes}
        for source, target in self.edges:
            (self.back if source in reached.get(target, ()) else self.into)[target].append(source)
        self.order = tuple(graphlib.TopologicalSorter(self.into).static_order())
        self.inputs = [name for name, node in self.nodes.items() if isinstance(node, nir.Input)]
        self.outputs = [name for name in graph.nodes if isinstance(graph.nodes[name], nir.Output)]
        self.weights = {name: _weights(node) for name, node in self.nodes.items()}

    def steps(self, inputs: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """What every node sends at each step, for each step's inputs by name ``[B, ...]``."""
        state: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        for given in inputs:
            if given.keys() != set(self.inputs):
                raise InvalidArgument(f"this graph takes the inputs {', '.join(self.inputs)}, not {', '.join(given)}")
            sent: dict[str, Tensor] = {}
            for name in self.order:
                arriving = [sent[source] for source in self.into[name]]
                arriving += [before[source] for source in self.back[name] if source in before]
                sent[name] = given[name] if name in given else self._send(name, arriving, state)
            before = sent
            yield sent

    def _send(self, name: str, arriving: list[Tensor], state: dict[str, Tensor]) -> Tensor:
        node, w = self.nodes[name], self.weights[name]
        x = sum(arriving, torch.zeros((), dtype=torch.float64))
        match node:
            case nir.Output():
                return x
            case nir.I():
                state[name] = state.get(name, torch.zeros(())) + w["r"] * x
                return state[name]
            case nir.IF():
                spikes, state[name] = self.firing(state.get(name, torch.zeros(())) + x, w["v_threshold"])
                return spikes
            case nir.Threshold():
                return (x > w["threshold"]).double()
            case nir.Scale():
                return x * w["scale"]
            case nir.Flatten():
                return x.flatten(1)
            case nir.Linear():
                return x @ w["weight"].t()
            case nir.Affine():
                return x @ w["weight"].t() + w["bias"]
            case nir.Conv1d() | nir.Conv2d():
                convolve: Any = F.conv1d if isinstance(node, nir.Conv1d) else F.conv2d
                given = [
                    tuple(map(int, each.flatten().tolist())) for each in (w["stride"], w["padding"], w["dilation"])
                ]
                result: Tensor = convolve(x, w["weight"], w["bias"], *given)
                return result
        raise InvalidArgument(f"{name} is a {type(node).__name__}, which is not run here")


def _weights(node: nir.NIRNode) -> dict[str, Tensor]:
    """The numbers of a node, as tensors."""
    fields = ("r", "v_threshold", "threshold", "scale", "weight", "bias", "stride", "padding", "dilation")
    return {
        field: torch.as_tensor(getattr(node, field), dtype=torch.float64) for field in fields if hasattr(node, field)
    }


def _reached(after: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in after[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


class ExactNirNetwork:
    """A network that `qffs.export.nir_exact` wrote: called as a `SpikingNetwork` is, it sends the same spikes."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        try:
            known = json.loads(graph.metadata[KEY])
            if known["form"] != FORM:
                raise KeyError(known["form"])
            self.schedule = Schedule(tuple(known["charge"]))
            self.charges, self.populations = known["charges"], known["populations"]
            self.inputs, self.outputs = known["inputs"], known["outputs"]
            named = {*self.inputs, *self.outputs, *self.charges, *chain(*self.populations.values())}
            if not named <= set(graph.nodes):
                raise KeyError(*(named - set(graph.nodes)))
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError("this graph of NIR was not written by qffs.export.nir_exact") from error
        self.network = NirNetwork(graph)

    def __call__(self, *inputs: Tensor, steps: int) -> Any:
        """What is read out after each step, accumulated, ``[T, B, ...]``; a tuple where there are several outputs."""
        readout, _ = self.run(*inputs, steps=steps)
        return readout

    def run(self, *inputs: Tensor, steps: int) -> tuple[Any, dict[str, Tensor]]:
        """The read-out, and by layer of neurons the spikes ``[T, B, ...]`` in {-1, 0, 1}."""
        if len(inputs) != len(self.inputs):
            raise InvalidArgument(f"the network takes {len(self.inputs)} inputs, not {len(inputs)}")
        for name, x in zip(self.inputs, inputs, strict=True):
            wanted = [len(inputs[0]), *map(int, self.network.nodes[name].input_type["input"])]
            if list(x.shape) != wanted:
                raise InvalidArgument(f"{name} must be {wanted}, not {list(x.shape)}")
        one = torch.ones((len(inputs[0]),), dtype=torch.float64)
        given = []
        for weight in self.schedule.over(steps):
            here = {name: weight * x.double() for name, x in zip(self.inputs, inputs, strict=True)}
            for name in self.charges:
                shape = tuple(self.network.nodes[name].input_type["input"])
                here[name] = (weight * one).view(-1, *(1,) * len(shape)).expand(-1, *map(int, shape))
            given.append(here)
        read: dict[str, list[Tensor]] = {name: [] for name in self.outputs}
        spikes: dict[str, list[Tensor]] = {path: [] for path in self.populations}
        for sent in self.network.steps(given):
            for name, values in read.items():
                values.append(sent[name])
            for path, (positive, negative) in self.populations.items():
                spikes[path].append(sent[positive] - sent[negative])
        accumulated = tuple(torch.stack(values).cumsum(0) for values in read.values())
        return (
            accumulated[0] if len(accumulated) == 1 else accumulated,
            {path: torch.stack(each) for path, each in spikes.items()},
        )


def read(path: str | Path) -> nir.NIRGraph:
    """A graph from a file; raises `CheckpointError` where there is none."""
    try:
        return nir.read(path, type_check=False)  # whose types of kernels that are not square are wrong
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as NIR: {error}") from error
