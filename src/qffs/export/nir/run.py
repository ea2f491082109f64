"""Runs of NIR graphs: exact graphs spike by spike, and approximations in the way in which other tools run them."""

from __future__ import annotations

import copy
import graphlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.errors import CheckpointError, InvalidArgument
from qffs.export.nir.stored import Stored
from qffs.method import Schedule

KEY = "qffs"
"""The key of this library in the metadata of a graph; its value is JSON."""
FORM = "qffs exact 1"
LEAST_BYTES = 2**26
"""The memory that the values of one node may need for an image, however small the file is."""


@dataclass(frozen=True)
class Firing:
    """The way in which a tool runs NIR's integrate-and-fire node.

    at: whether a neuron fires at the threshold, not only above it. subtract: whether a spike subtracts the threshold
    from the potential, instead of setting it to 0. several: whether a neuron sends several spikes at one step, as many
    as the potential contains thresholds. floor: whether the potential never falls below minus the threshold.
    """

    at: bool = False
    subtract: bool = False
    several: bool = False
    floor: bool = False

    def __call__(self, potential: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes, and the potential after them.

        >>> Firing()(torch.tensor([1.0, 2.5]), torch.ones(2))
        (tensor([0., 1.]), tensor([1., 0.]))
        >>> Firing(at=True, subtract=True, several=True)(torch.tensor([1.0, 2.5]), torch.ones(2))
        (tensor([1., 2.]), tensor([0.0000, 0.5000]))
        """
        spikes = (potential >= threshold if self.at else potential > threshold).to(potential)
        if self.several:
            spikes = (potential / threshold).floor().clamp_min(0.0)
        remaining = potential - spikes * threshold if self.subtract else torch.where(spikes > 0, 0.0, potential)
        return spikes, torch.maximum(remaining, -threshold) if self.floor else remaining


class NirNetwork:
    """A NIR graph that runs step by step, from rest, in float64.

    At each step, the input of a node is the sum over its edges. On edges that lead back to an integrator, this is the
    value of the step before. Raises `InvalidArgument` on nodes of other types, and
    on a circle of nodes without an integrator.
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
        try:
            self.order = tuple(graphlib.TopologicalSorter(self.into).static_order())
        except graphlib.CycleError as error:
            raise InvalidArgument(f"the nodes {', '.join(error.args[1])} form a circle without an integrator") from None
        self.inputs = [name for name, node in self.nodes.items() if isinstance(node, nir.Input)]
        self.outputs = [name for name in graph.nodes if isinstance(graph.nodes[name], nir.Output)]
        self.weights = {name: _weights(node) for name, node in self.nodes.items()}
        self.geometry = {name: _geometry(node) for name, node in self.nodes.items()}

    def steps(self, inputs: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yield the values of all nodes at each step, for the inputs of each step by name ``[B, ...]``."""
        state: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        for values in inputs:
            if values.keys() != set(self.inputs):
                raise InvalidArgument(f"this graph takes the inputs {', '.join(self.inputs)}, not {', '.join(values)}")
            sent: dict[str, Tensor] = {}
            for name in self.order:
                arriving = [sent[source] for source in self.into[name]]
                arriving += [before[source] for source in self.back[name] if source in before]
                sent[name] = values[name] if name in values else self._send(name, arriving, state)
            before = sent
            yield sent

    def check_shapes(self, inputs: Sequence[str], given: Sequence[str], most_bytes: int) -> None:
        """Compute the shapes of two steps, and raise `CheckpointError` where they do not fit.

        inputs: all inputs; given: those whose values come from the user. Nothing is computed and no memory is used: a
        damaged graph could ask for any amount of it, also by sums of unequal shapes. No other value of an image may
        need more than ``most_bytes``. Raises nearly any error where a graph is damaged in another way.
        """
        for name, fields in self.weights.items():
            broken = [field for field, value in fields.items() if not bool(value.isfinite().all())]
            if broken:
                raise CheckpointError(f"{name} holds NaN or infinity in {broken[0]}")
        shapes = copy.copy(self)
        shapes.weights = {
            name: {field: value.to("meta") for field, value in fields.items()} for name, fields in self.weights.items()
        }
        values = {name: torch.empty((1, *shape_of(self.nodes[name])), device="meta").double() for name in inputs}
        _, second = shapes.steps([values] * 2)  # at the first step, nothing has come back yet
        for name, value in second.items():
            arriving = {second[source].shape for source in self.into[name] + self.back[name]}
            keeps = isinstance(self.nodes[name], nir.I | nir.Threshold | nir.Scale | nir.Output)
            if len(arriving) > 1 or (keeps and arriving != {value.shape}):
                raise CheckpointError(f"{name} receives or holds another shape than the nodes beside it")
            if name not in given and value.nbytes > max(most_bytes, LEAST_BYTES):
                raise CheckpointError(f"{name} would need {value.nbytes:,} bytes of memory for each image")

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
                result: Tensor = convolve(x, w["weight"], w["bias"], *self.geometry[name])
                return result
        raise InvalidArgument(f"{name} is a {type(node).__name__}, which is not run here")


def _weights(node: nir.NIRNode) -> dict[str, Tensor]:
    """Return the fields of a node that are multiplied, added or compared, as tensors."""
    fields = ("r", "v_threshold", "threshold", "scale", "weight", "bias")
    return {
        field: torch.as_tensor(getattr(node, field), dtype=torch.float64) for field in fields if hasattr(node, field)
    }


def _geometry(node: nir.NIRNode) -> list[tuple[int, ...]]:
    """Return stride, padding and dilation of a convolution."""
    fields = ("stride", "padding", "dilation") if isinstance(node, nir.Conv1d | nir.Conv2d) else ()
    return [tuple(map(int, np.atleast_1d(getattr(node, field)).tolist())) for field in fields]


def shape_of(node: nir.NIRNode) -> tuple[int, ...]:
    """Return the shape of an input, without the batch."""
    return tuple(map(int, node.input_type["input"]))


def _reached(after: dict[str, set[str]], start: str) -> set[str]:
    nodes: set[str] = set()
    waiting = [start]
    while waiting:
        for name in after[waiting.pop()] - nodes:
            nodes.add(name)
            waiting.append(name)
    return nodes


class ExactNirNetwork:
    """A network that `qffs.export.nir_exact` wrote, with the same spikes; it is called like a `SpikingNetwork`.

    source: the name of the file in messages. Raises `CheckpointError` if `nir_exact` did not write the graph, or if it
    is damaged: its shapes are computed once, for two steps.
    """

    def __init__(self, stored: Stored, source: str | Path) -> None:
        graph = stored.graph
        try:
            description = json.loads(graph.metadata[KEY])
            if description["form"] != FORM:
                raise KeyError(description["form"])
            self.schedule = Schedule.of(description["charge"])
            self.charges, self.populations = description["charges"], description["populations"]
            self.inputs, self.outputs = description["inputs"], description["outputs"]
            pairs = [(positive, negative) for positive, negative in self.populations.values()]
            names = {*self.inputs, *self.outputs, *self.charges, *chain(*pairs)}
            if not names <= set(graph.nodes):
                raise KeyError(*(names - set(graph.nodes)))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: this graph of NIR was not written by qffs.export.nir_exact") from error
        try:
            self.network = NirNetwork(graph)
            self.network.check_shapes([*self.inputs, *self.charges], self.inputs, stored.most_bytes)
        except Exception as error:  # a damaged graph can fail in nearly any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"the graph in {source} is damaged: {reason}") from error

    def __call__(self, *inputs: Tensor, steps: int) -> Any:
        """Return the read-out after each step, ``[T, B, ...]``; a tuple if there are several outputs.

        inputs: ``[B, ...]`` each. steps: T, at least D. Raises `InvalidArgument` if they do not fit the network.
        """
        readout, _ = self.run(*inputs, steps=steps)
        return readout

    def run(self, *inputs: Tensor, steps: int) -> tuple[Any, dict[str, Tensor]]:
        """Return the read-out as `__call__` does, and by layer of neurons the spikes ``[T, B, ...]`` in {-1, 0, 1}."""
        if len(inputs) != len(self.inputs):
            raise InvalidArgument(f"the network takes {len(self.inputs)} inputs, not {len(inputs)}")
        for name, x in zip(self.inputs, inputs, strict=True):
            expected = [len(inputs[0]), *shape_of(self.network.nodes[name])]
            if list(x.shape) != expected:
                raise InvalidArgument(f"{name} must be {expected}, not {list(x.shape)}")
        one = torch.ones((len(inputs[0]),), dtype=torch.float64)
        charged = []
        for weight in self.schedule.over(steps):
            at_step = {name: weight * x.double() for name, x in zip(self.inputs, inputs, strict=True)}
            for name in self.charges:
                shape = shape_of(self.network.nodes[name])
                at_step[name] = (weight * one).view(-1, *(1,) * len(shape)).expand(-1, *shape)
            charged.append(at_step)
        read: dict[str, list[Tensor]] = {name: [] for name in self.outputs}
        spikes: dict[str, list[Tensor]] = {path: [] for path in self.populations}
        for sent in self.network.steps(charged):
            for name, values in read.items():
                values.append(sent[name])
            for path, (positive, negative) in self.populations.items():
                spikes[path].append(sent[positive] - sent[negative])
        accumulated = tuple(torch.stack(values).cumsum(0) for values in read.values())
        return (
            accumulated[0] if len(accumulated) == 1 else accumulated,
            {path: torch.stack(each) for path, each in spikes.items()},
        )
