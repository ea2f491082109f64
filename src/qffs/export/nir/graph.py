"""A spiking network as a graph of NIR: its linear operators as convolutions and matrices, its neurons as asked for.

Two ways to write neurons derive from the walk here: `nir_composed` and `nir_rates`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, count
from operator import attrgetter
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.circuit.unit_response import UnitResponse, names_of, refusal, refused
from qffs.export.nir.linear_form import Convolution, Flatten, Form, Matrix, Window, linear_form
from qffs.graph import batch_axis
from qffs.graph.call import label, option, signals
from qffs.graph.site import Kind, site, tensor_shape
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork

Bundle = dict[str, Tensor]
"""What a signal is the sum of: nodes of NIR by name, each times a factor, one for all ``[]`` or one a unit."""

ONE = torch.ones((), dtype=torch.float64)
KEPT = nir.Input, nir.Output


class Graph:
    """The walk over a network that builds ``nodes`` and ``edges``; how neurons are written is left to what derives."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.network, self.charge = copy.deepcopy(snn.graph).cpu().double(), snn.schedule.weights
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.bundles: dict[fx.Node, Bundle] = {}
        self.units: dict[fx.Node, tuple[Tensor, int]] = {}
        """Of what holds single spikes: how much each unit's is, and how many it has sent at the most."""
        self.constants: dict[str, Tensor] = {}
        self.names = names_of(self.network)
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        """Nodes by name, in the network's own order."""
        self.reasons: dict[fx.Node, str] = {}

    def build(self) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
        """All nodes and edges; raises `NotConvertible` with the name of each operator that has no form in NIR."""
        if found := refused(self.network, self.refusal):
            raise NotConvertible("these have no form in NIR:\n" + "\n".join(found))
        placeholders = self.network.graph.find_nodes(op="placeholder")
        resting = tuple(torch.zeros((1, *tensor_shape(node)[1:]), dtype=torch.float64) for node in placeholders)
        self.constants = UnitResponse(self.network, resting, None).arrivals()
        for node in self.network.graph.nodes:
            self._visit(node)
        self._drop_unread()
        return self.nodes, self.edges

    def _drop_unread(self) -> None:
        """Leave out what leads nowhere: to each such node NIR would give an output."""
        while True:
            read = {source for source, _ in self.edges}
            unread = {name for name, node in self.nodes.items() if name not in read and not isinstance(node, KEPT)}
            if not unread:
                return
            self.nodes = {name: node for name, node in self.nodes.items() if name not in unread}
            self.edges = [edge for edge in self.edges if edge[1] not in unread]

    def refusal(self, node: fx.Node) -> str | None:
        """Why a node has no form, where that is seen at once."""
        axes = batch_axis.axes(node) if site(node).signal else []
        if any(axis != (0, 1) for axis in axes):
            return "it does not hold one image a row of dimension 0"
        if axes and len(site(node).shape or ()) == 1:
            return "it is a single number an image, for which NIR has no shape"
        return refusal(node)

    def add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        """Add a node, with edges from others; return its name, which is another where there is one of it."""
        name = next(each for each in chain([name], (f"{name}_{k}" for k in count(2))) if each not in self.nodes)
        self.nodes[name] = node
        self.edges.extend((source, name) for source in sources)
        return name

    def without_form(self, node: fx.Node, why: str) -> NotConvertible:
        """The error that names a node."""
        return NotConvertible(f"these have no form in NIR:\n{node.name} ({label(node, self.network)}): {why}")

    def read(self, node: fx.Node) -> Bundle:
        """What a signal is the sum of."""
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
                self.units[node] = UnitResponse(self.network, (θ[None],), {}).applied(node, θ[None])[0], highest
                self.bundles[node] = self.pool(node, bundle)
            case Kind.LINEAR | Kind.SUM | Kind.JOIN:
                self._linear(node)

    def _output(self, node: fx.Node) -> None:
        name, shape = self.names[len(self.outputs)], self.shape(node)
        self.outputs.append(self.output(name, shape, self.read(node), self.constants[name][0].view(shape)))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a signal, an image."""
        return tuple(tensor_shape(node)[1:])

    # --- linear operators -------------------------------------------------------------------------------------------

    def _linear(self, node: fx.Node) -> None:
        """Find the forms of an operator, together with those before it that have none: a tuple, more dimensions."""
        found, units = [], []
        for read in dict.fromkeys(signals(node)):
            path, start = [node], read
            while start not in self.bundles:
                path.insert(0, start)
                start, *others = dict.fromkeys(signals(start))
                if others:
                    self.read(path[0])

            def apply(x: Tensor, path: list[fx.Node] = path, start: fx.Node = start) -> Tensor:
                result: Tensor = UnitResponse(self.network, (x,), {}).through(path, start, x)
                return result

            try:
                if not isinstance(site(node).shape, tuple):
                    raise NotConvertible("it gives several values")
                forms = linear_form(apply, self.shape(start), windows_of(node, self.network))
            except NotConvertible as error:
                self.reasons[node] = str(error)
                return
            found.append((start, forms))
            if start in self.units:
                θ, highest = self.units[start]
                units.append((apply(θ[None])[0], highest))
        self.bundles[node] = self._sum(node.name, found)
        if site(node).unit:
            self.units[node] = torch.stack([θ for θ, _ in units]).sum(0), max(highest for _, highest in units)

    def _sum(self, name: str, found: Sequence[tuple[fx.Node, Sequence[Form]]]) -> Bundle:
        """The sum of what forms make of signals, each of every node that its signal is the sum of."""
        bundle: Bundle = {}
        alone = len(found) == 1 and len(self.bundles[found[0][0]]) == 1
        for start, forms in found:
            for source, factor in self.bundles[start].items():
                for form in forms:
                    own = name if alone else f"{name}_of_{source}"
                    named = own if form is forms[-1] else f"{own}_{type(form).__name__.lower()}"
                    source, factor = self._form(form, named, source, factor)
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
        """The nodes whose sum a bundle is, with one more for each that had a factor."""
        found = []
        for source, factor in bundle.items():
            if not bool((factor == 1).all()):
                source = self.add(f"{name}_scaled_{source}", self.scale(factor, shape), source)
            found.append(source)
        return found

    # --- what the ways to write it differ in ------------------------------------------------------------------------

    def matrix(self, weight: Tensor) -> nir.NIRNode:
        """A matrix."""
        return nir.Linear(weight=weight.numpy())

    def scale(self, factor: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
        """What multiplies a signal."""
        return nir.Scale(scale=factor.expand(shape).numpy().copy())

    def neuron(self, name: str, neuron: Neuron, bundle: Bundle, constant: Tensor) -> Bundle:
        """A layer of neurons, and what it sends; constant: what arrives of the biases."""
        raise NotImplementedError

    def pool(self, node: fx.Node, bundle: Bundle) -> Bundle:
        """A layer that takes the largest of counts."""
        raise NotImplementedError

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle, constant: Tensor) -> str:
        """What is read out; its node."""
        raise NotImplementedError


def convolution(form: Convolution, weight: Tensor) -> nir.NIRNode:
    """A convolution without a bias."""
    made: Any = nir.Conv1d if len(form.size) == 1 else nir.Conv2d
    one = len(form.size) == 1
    stride, padding, dilation = (each[0] if one else each for each in (form.stride, form.padding, form.dilation))
    size = form.size[0] if one else form.size
    return made(
        input_shape=size, weight=weight.numpy().copy(), stride=stride, padding=padding, dilation=dilation, groups=1,
        bias=np.zeros(len(weight)),
    )  # fmt: skip


def windows_of(node: fx.Node, network: fx.GraphModule) -> list[Window]:
    """What a module of windows, or a call of a convolution or a pooling, says of itself."""
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
    whole: Any = [tuple(each) if isinstance(each, tuple | list) else (each,) * dimensions for each in values]
    if padding in {"same", "valid"}:
        whole[2] = tuple((k - 1) * d // 2 * (padding == "same") for k, d in zip(whole[0], whole[3], strict=True))
    return [tuple(whole)] if all(len(e) == dimensions and all(isinstance(k, int) for k in e) for e in whole) else []
