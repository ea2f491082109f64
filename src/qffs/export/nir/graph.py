"""A spiking network as a graph of NIR, with its linear operators as convolutions and matrices.

Two subclasses write the neurons: `qffs.export.nir.exact.Exact` and `qffs.export.nir.approximate.Rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from operator import attrgetter
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.circuit.unit_response import UnitResponse, names_of, refusal, refusals
from qffs.export.nir.linear_form import Convolution, Flatten, Form, Matrix, Window, linear_form
from qffs.graph import batch_axis
from qffs.graph.call import label, option, signals
from qffs.graph.replace import plain_copy
from qffs.graph.site import Kind, site, tensor_shape
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.operations import operations

Bundle = dict[str, Tensor]
"""A signal as a sum of nodes of NIR: by name of the node, its factor, one for all units ``[]`` or one for each unit."""

ONE = torch.ones((), dtype=torch.float64)
KEPT = nir.Input, nir.Output


class Graph:
    """The walk over a network that builds ``nodes`` and ``edges`` of NIR; subclasses define how neurons are written."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.network, self.charge = plain_copy(snn.graph).cpu().double(), snn.schedule.weights
        self.operations = operations(self.network)
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.bundles: dict[fx.Node, Bundle] = {}
        self.units: dict[fx.Node, tuple[Tensor, int]] = {}
        """By node that carries single spikes: the size of a spike of each unit, and the largest count of spikes."""
        self.constants: dict[str, Tensor] = {}
        self.names = names_of(self.network)
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        """The names of the output nodes, in the order of the outputs of the network, as ``inputs`` for the inputs."""
        self.reasons: dict[fx.Node, str] = {}

    def build(self) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
        """Return all nodes and edges; raise `NotConvertible` with the name of each operator that has no form in NIR."""
        if reasons := refusals(self.network, self.refusal):
            raise NotConvertible("these have no form in NIR:\n" + "\n".join(reasons))
        placeholders = self.network.graph.find_nodes(op="placeholder")
        resting = tuple(torch.zeros((1, *tensor_shape(node)[1:]), dtype=torch.float64) for node in placeholders)
        self.constants = UnitResponse(self.operations, resting, None).arrivals()
        for node in self.network.graph.nodes:
            self._visit(node)
        self._drop_unread()
        return self.nodes, self.edges

    def _drop_unread(self) -> None:
        """Remove the nodes that no other node reads, because NIR would add an output to each of them."""
        while True:
            read = {source for source, _ in self.edges}
            unread = {name for name, node in self.nodes.items() if name not in read and not isinstance(node, KEPT)}
            if not unread:
                return
            self.nodes = {name: node for name, node in self.nodes.items() if name not in unread}
            self.edges = [edge for edge in self.edges if edge[1] not in unread]

    def refusal(self, node: fx.Node) -> str | None:
        """Return why a node has no form, if this is known before the walk; None if it is not."""
        axes = batch_axis.axes(node) if site(node).signal else []
        if any(axis != (0, 1) for axis in axes):
            return "it does not hold one image a row of dimension 0"
        if axes and len(site(node).shape or ()) == 1:
            return "it is a single number an image, for which NIR has no shape"
        return refusal(node)

    def add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        """Add a node with edges from ``sources``, and return its name, with a number if the name exists already."""
        name = next(each for each in chain([name], (f"{name}_{k}" for k in count(2))) if each not in self.nodes)
        self.nodes[name] = node
        self.edges.extend((source, name) for source in sources)
        return name

    def without_form(self, node: fx.Node, why: str) -> NotConvertible:
        """Return the error about a node that has no form."""
        return NotConvertible(f"these have no form in NIR:\n{node.name} ({label(node, self.network)}): {why}")

    def read(self, node: fx.Node) -> Bundle:
        """Return the sum that a signal is; raise `NotConvertible` if an operator before it has no form."""
        if node not in self.bundles:
            while before := [each for each in signals(node) if each not in self.bundles]:
                node = before[0]
            raise self.without_form(node, self.reasons[node])
        return self.bundles[node]

    def _visit(self, node: fx.Node) -> None:
        match site(node).kind:
            case Kind.INPUT:
                shape = np.array(tensor_shape(node)[1:])
                self.inputs.append(self.add(self.names[node], nir.Input(input_type={"input": shape})))
                self.bundles[node] = {self.inputs[-1]: ONE}
            case Kind.OUTPUT:
                fx.node.map_arg(node.args, self._output)
            case Kind.SPIKING:
                neuron = self.network.get_submodule(str(node.target))
                assert isinstance(neuron, Neuron)
                bundle = self.read(node.all_input_nodes[0])
                constant = self.constants[self.names[node]][0].view(self.shape(node))
                self.bundles[node] = self.neuron(self.names[node], neuron, bundle, constant)
                self.units[node] = neuron.threshold.expand((1, *self.shape(node)))[0], neuron.highest
            case Kind.DIFFERENCED:
                (read,) = node.all_input_nodes
                bundle, (θ, highest) = self.read(read), self.units[read]
                self.units[node] = UnitResponse(self.operations, (θ[None],), {}).applied(node, θ[None])[0], highest
                self.bundles[node] = self.pool(node, bundle)
            case Kind.LINEAR | Kind.SUM | Kind.JOIN:
                self._linear(node)

    def _output(self, node: fx.Node) -> None:
        name, shape = self.names[len(self.outputs)], self.shape(node)
        self.outputs.append(self.output(name, shape, self.read(node), self.constants[name][0].view(shape)))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a signal for one image."""
        return tuple(tensor_shape(node)[1:])

    # --- linear operators -------------------------------------------------------------------------------------------

    def _linear(self, node: fx.Node) -> None:
        """Write an operator as forms of NIR, together with the operators before it that have no form of their own.

        Such operators return a tuple or a signal of more dimensions, for example.
        """
        parts, units = [], []
        for read in dict.fromkeys(signals(node)):
            path, start = [node], read
            while start not in self.bundles:
                path.insert(0, start)
                start, *others = dict.fromkeys(signals(start))
                if others:
                    self.read(path[0])

            def apply(x: Tensor, path: list[fx.Node] = path, start: fx.Node = start) -> Tensor:
                result: Tensor = UnitResponse(self.operations, (x,), {}).through(path, start, x)
                return result

            try:
                if not isinstance(site(node).shape, tuple):
                    raise NotConvertible("it returns several values")
                forms = linear_form(apply, self.shape(start), windows_of(node, self.network))
            except NotConvertible as error:
                self.reasons[node] = str(error)
                return
            parts.append((start, forms))
            if start in self.units:
                θ, highest = self.units[start]
                units.append((apply(θ[None])[0], highest))
        self.bundles[node] = self._sum(node.name, parts)
        if site(node).unit:
            self.units[node] = torch.stack([θ for θ, _ in units]).sum(0), max(highest for _, highest in units)

    def _sum(self, name: str, parts: Sequence[tuple[fx.Node, Sequence[Form]]]) -> Bundle:
        """Return a sum of signals to which forms are applied, node by node of each signal."""
        bundle: Bundle = {}
        alone = len(parts) == 1 and len(self.bundles[parts[0][0]]) == 1
        for start, forms in parts:
            for source, factor in self.bundles[start].items():
                for form in forms:
                    base = name if alone else f"{name}_of_{source}"
                    full_name = base if form is forms[-1] else f"{base}_{type(form).__name__.lower()}"
                    source, factor = self._form(form, full_name, source, factor)
                bundle[source] = bundle[source] + factor if source in bundle else factor
        return bundle

    def _form(self, form: Form, name: str, source: str, factor: Tensor) -> tuple[str, Tensor]:
        if isinstance(form, Flatten):
            spread = factor if not factor.dim() else factor.expand(form.shape).reshape(-1)
            flatten = nir.Flatten(input_type={"input": np.array(form.shape)}, start_dim=0)
            return self.add(name, flatten, source), spread
        if isinstance(form, Matrix):
            return self.add(name, self.matrix(form.weight * factor), source), ONE
        weight = form.weight * (factor if not factor.dim() else factor.reshape(1, -1, *(1,) * (factor.dim() - 1)))
        return self.add(name, convolution(form, weight), source), ONE

    def scaled(self, name: str, bundle: Bundle, shape: tuple[int, ...]) -> list[str]:
        """Return the nodes whose sum a bundle is, after adding a scale for each node with a factor."""
        names = []
        for source, factor in bundle.items():
            if not bool((factor == 1).all()):
                source = self.add(f"{name}_scaled_{source}", self.scale(factor, shape), source)
            names.append(source)
        return names

    # --- the parts that subclasses define ---------------------------------------------------------------------------

    def matrix(self, weight: Tensor) -> nir.NIRNode:
        """Return a node that multiplies by a matrix."""
        return nir.Linear(weight=weight.numpy())

    def scale(self, factor: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
        """Return a node that multiplies a signal by a factor."""
        return nir.Scale(scale=factor.expand(shape).numpy().copy())

    def neuron(self, name: str, neuron: Neuron, bundle: Bundle, constant: Tensor) -> Bundle:
        """Add a layer of neurons, and return its signal; constant: the total of the biases that arrive."""
        raise NotImplementedError

    def pool(self, node: fx.Node, bundle: Bundle) -> Bundle:
        """Add a layer that takes the largest of counts, and return its signal."""
        raise NotImplementedError

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle, constant: Tensor) -> str:
        """Add an output, and return the name of its node."""
        raise NotImplementedError


def convolution(form: Convolution, weight: Tensor) -> nir.NIRNode:
    """Return a convolution with a bias of 0."""
    node_type: Any = nir.Conv1d if len(form.size) == 1 else nir.Conv2d
    one = len(form.size) == 1
    stride, padding, dilation = (each[0] if one else each for each in (form.stride, form.padding, form.dilation))
    size = form.size[0] if one else form.size
    return node_type(
        input_shape=size, weight=weight.numpy().copy(), stride=stride, padding=padding, dilation=dilation, groups=1,
        bias=np.zeros(len(weight)),
    )  # fmt: skip


def windows_of(node: fx.Node, network: fx.GraphModule) -> list[Window]:
    """Return the window in the arguments of a convolution or a pooling, as a list; empty for other operators."""
    (read, *others), names = node.all_input_nodes, ("kernel_size", "stride", "padding", "dilation")
    dimensions = len(site(read).shape or ()) - 2
    called = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_module":
        kernel, *rest = (getattr(network.get_submodule(str(node.target)), name, None) for name in names)
    elif called.startswith("conv") and others and others[0].op == "get_attr":
        kernel = tuple(attrgetter(str(others[0].target))(network).shape[2:])
        rest = [
            option(node, k + 3, name) or default
            for k, (name, default) in enumerate(zip(names[1:], (1, 0, 1), strict=True))
        ]
    elif "pool" in called and "adaptive" not in called:
        kernel, *rest = (option(node, k + 1, name) for k, name in enumerate(names))
    else:
        return []
    stride, padding, dilation = rest
    values: list[Any] = [kernel, stride or kernel, padding or 0, dilation or 1]
    window: Any = [tuple(each) if isinstance(each, tuple | list) else (each,) * dimensions for each in values]
    if padding in {"same", "valid"}:
        window[2] = tuple((k - 1) * d // 2 * (padding == "same") for k, d in zip(window[0], window[3], strict=True))
    return [tuple(window)] if all(len(e) == dimensions and all(isinstance(k, int) for k in e) for e in window) else []
