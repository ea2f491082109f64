"""A spiking network as a graph of NIR: its linear operators as convolutions and matrices, its neurons as asked for.

Two ways to write neurons share the walk (`Graph`). In `Exact` a neuron is composed of what NIR has, and nothing is
lost. In `Approximate` it is one integrate-and-fire node, as other tools can run it.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.linear_form import Convolution, Flatten, Form, Matrix, Window, linear_form
from qffs.export.probe import Probe, pools, refusal
from qffs.graph import images
from qffs.graph.annotate import label, option, signals
from qffs.graph.rules import Kind
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron

Bundle = dict[str, Tensor]
"""What a signal is the sum of: nodes of NIR by name, each times a factor, one for all ``[]`` or one a unit."""

ONE = torch.ones((), dtype=torch.float64)
KEPT = nir.Input, nir.Output
NEVER = 1e300
"""A threshold that nothing reaches."""


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
        self.outputs = 0

    def build(self) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
        """All nodes and edges; raises `NotConvertible` with the name of each operator that has no form in NIR."""
        nodes = self.network.graph.nodes
        refused = [f"{n.name} ({label(n, self.network)}): {why}" for n in nodes if (why := self.refusal(n))]
        if refused:
            raise NotConvertible("these have no form in NIR:\n" + "\n".join(refused))
        placeholders = self.network.graph.find_nodes(op="placeholder")
        resting = tuple(torch.zeros((1, *node.meta["shape"][1:]), dtype=torch.float64) for node in placeholders)
        self.constants = Probe(self.network, resting, None).arrivals()
        for node in nodes:
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
        held = [place for place in images.places(node) if node.meta["signal"]]
        if any(place != (0, 1) for place in held):
            return "it does not hold one image a row of dimension 0"
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
            raise self.without_form(node, "it is neither a convolution of one or two dimensions nor a matrix")
        return self.bundles[node]

    def _visit(self, node: fx.Node) -> None:
        match node.meta["kind"]:
            case Kind.INPUT:
                shape = np.array(node.meta["shape"][1:])
                self.bundles[node] = {self.add(node.name, nir.Input(input_type={"input": shape})): ONE}
            case Kind.OUTPUT:
                fx.node.map_arg(node.args, self._output)
            case Kind.SPIKING:
                neuron = self.network.get_submodule(str(node.target))
                assert isinstance(neuron, Neuron)
                bundle = self.read(node.all_input_nodes[0])
                self.bundles[node] = self.neuron(str(node.target), node, neuron, bundle)
                self.units[node] = neuron.threshold.expand((1, *self.shape(node)))[0], neuron.highest
            case Kind.DIFFERENCED:
                (read,) = node.all_input_nodes
                bundle, (θ, highest) = self.read(read), self.units[read]
                self.units[node] = Probe(self.network, (θ[None],), {}).applied(node, θ[None])[0], highest
                self.bundles[node] = self.pool(node, bundle)
            case Kind.LINEAR | Kind.SUM | Kind.JOIN:
                self._linear(node)

    def _output(self, node: fx.Node) -> None:
        name = "output" if not self.outputs else f"output_{self.outputs}"
        self.outputs += 1
        self.output(name, self.shape(node), self.read(node))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a signal, an image."""
        return tuple(node.meta["shape"][1:])

    def constant(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """What arrives at a population of the biases."""
        return self.constants[name][0].view(shape)

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
                result: Tensor = Probe(self.network, (x,), {}).through(path, start, x)
                return result

            single = isinstance(node.meta["shape"], tuple)
            forms = linear_form(apply, self.shape(start), _windows(node, self.network)) if single else None
            if forms is None:
                return
            found.append((start, forms))
            if start in self.units:
                θ, highest = self.units[start]
                units.append((apply(θ[None])[0], highest))
        self.bundles[node] = self._sum(node.name, found)
        if node.meta["unit"]:
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

    def neuron(self, name: str, node: fx.Node, neuron: Neuron, bundle: Bundle) -> Bundle:
        """A layer of neurons, and what it sends."""
        raise NotImplementedError

    def pool(self, node: fx.Node, bundle: Bundle) -> Bundle:
        """A layer that takes the largest of counts."""
        raise NotImplementedError

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle) -> None:
        """What is read out."""
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


def _windows(node: fx.Node, network: fx.GraphModule) -> list[Window]:
    """What a module of windows, or a call of a pooling, says of itself."""
    dimensions = len(node.all_input_nodes[0].meta["shape"] or ()) - 2
    said: Any = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    names = ("kernel_size", "stride", "padding", "dilation")
    if said is None:
        if "pool" not in str(getattr(node.target, "__name__", "")) or "adaptive" in str(node.target):
            return []
        found = [option(node, k + 1, name) for k, name in enumerate(names)]
    else:
        found = [getattr(said, name, None) for name in names]
    kernel, stride, padding, dilation = found
    if padding == "same":
        padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    values = (kernel, stride or kernel, padding or 0, 1 if dilation is None else dilation)
    whole: Any = tuple(tuple(each) if isinstance(each, tuple | list) else (each,) * dimensions for each in values)
    return [whole] if all(len(e) == dimensions and all(isinstance(k, int) for k in e) for e in whole) else []


class Exact(Graph):
    """Neurons composed of integrators, thresholds and scales: every spike is the network's own.

    With ``I`` the integrator, ``[x > a]`` a threshold and u counted from the potential before the first step::

        u = I(arriving - θ z of the step before),  Z = I(z of the step before)
        z = [-([-u > u_0 - θ] + [Z > n - 1/2]) > -1/2] - [[-u > u_0] + [Z > 1/2] > 3/2]

    u < θ and u < 0 are tested as -u > -θ and -u > 0, because a threshold of NIR fires above it, not at it. Biases are
    charged by inputs of their own, ``NAME.charge``, that carry ``charge[t]``.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__(snn)
        self.populations: dict[str, tuple[str, str]] = {}
        """By layer of neurons: the nodes that send 1 for a positive and a negative spike."""
        self.charges: list[str] = []

    def composed(
        self, name: str, θ: Tensor, first: Tensor, highest: float, negative: bool, sources: Sequence[str]
    ) -> tuple[str, str]:
        """Neurons of thresholds θ, potentials ``first`` before the first step, and at most n spikes; their z."""
        shape, add = tuple(θ.shape), self.add

        def threshold(value: Tensor | float) -> nir.NIRNode:
            return nir.Threshold(threshold=torch.as_tensor(value, dtype=torch.float64).expand(shape).numpy().copy())

        def scale(value: Tensor | float) -> nir.NIRNode:
            return self.scale(torch.as_tensor(value, dtype=torch.float64), shape)

        u = add(f"{name}.u", nir.I(r=np.ones(shape)), *sources)
        down = add(f"{name}.u_negated", scale(-1.0), u)
        balance = add(f"{name}.count", nir.I(r=np.ones(shape)))
        below = add(f"{name}.below_threshold", threshold(first - θ), down)
        full = add(f"{name}.full", threshold(min(highest - 0.5, NEVER)), balance)
        hindered = add(f"{name}.hindered", scale(-1.0), below, full)
        positive = add(f"{name}.positive", threshold(-0.5), hindered)
        under = add(f"{name}.below_zero", threshold(first), down)
        some = add(f"{name}.some", threshold(0.5 if negative else NEVER), balance)
        negative_ = add(f"{name}.negative", threshold(1.5), under, some)
        taken = add(f"{name}.taken_back", scale(-1.0), negative_)
        back = add(f"{name}.reset", scale(-θ), positive, taken)
        self.edges += [(back, u), (positive, balance), (taken, balance)]
        return positive, taken

    def neuron(self, name: str, node: fx.Node, neuron: Neuron, bundle: Bundle) -> Bundle:
        """A layer of neurons, and what it sends: spikes times θ."""
        shape = self.shape(node)
        θ = neuron.threshold.expand((1, *shape))[0]
        sources = self.scaled(name, bundle, shape) + self._bias(name, shape)
        highest = neuron.highest if neuron.cap else math.inf
        sent = self.composed(name, θ, neuron.precharge * θ, highest, neuron.negative_spikes, sources)
        self.populations[name] = (f"{name}.positive", f"{name}.negative")
        return {self.add(f"{name}.sent", self.scale(θ, shape), *sent): ONE}

    def _bias(self, name: str, shape: tuple[int, ...]) -> list[str]:
        constant = self.constant(name, shape)
        if not bool(constant.any()):
            return []
        charge = self.add(f"{name}.charge", nir.Input(input_type={"input": np.array(shape)}))
        self.charges.append(charge)
        return [self.add(f"{name}.bias", self.scale(constant, shape), charge)]

    def pool(self, node: fx.Node, bundle: Bundle) -> Bundle:
        """Max pooling, level by level: see `qffs.export.probing`."""
        (read,) = node.all_input_nodes
        (θ, highest), into, out = self.units[read], self.shape(read), self.shape(node)
        forms = linear_form(lambda x: Probe(self.network, (x,), {}).applied(node, x), into,
                            _windows(node, self.network), pools=True)  # fmt: skip
        if forms is None:
            raise self.without_form(node, "its windows are those of no convolution")
        counts = {source: factor / torch.where(θ > 0, θ, 1.0) for source, factor in bundle.items()}
        arriving = self.scaled(node.name, counts, into)
        one, pooled = torch.ones(into, dtype=torch.float64), torch.ones(out, dtype=torch.float64)
        sent: list[str] = []
        for level in range(1, highest + 1):
            name = f"{node.name}.level_{level}"
            reached = self.composed(name, one, one * (1.5 - level), 1, True, arriving)
            summed = self.joined(f"{name}.sum", reached, into)
            for form in forms:
                summed, _ = self._form(form, f"{name}.{type(form).__name__.lower()}", summed, ONE)
            sent += self.composed(f"{node.name}.largest_{level}", pooled, 0.5 * pooled, 1, True, (summed,))
        largest, highest = self.units[node]
        return {self.add(f"{node.name}.sent", self.scale(largest, out), *sent): ONE}

    def joined(self, name: str, sources: Sequence[str], shape: tuple[int, ...]) -> str:
        """One node that is the sum of others."""
        return self.add(name, self.scale(ONE, shape), *sources)

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle) -> None:
        """What is read out new at each step."""
        sources = self.scaled(name, bundle, shape) + self._bias(name, shape)
        self.add(name, nir.Output(output_type={"output": np.array(shape)}), *sources)


class Approximate(Graph):
    """Neurons as NIR's integrate-and-fire nodes, which any tool can run: rates stand for activations.

    The input and the biases stay on, the read-out is a mean over time. A neuron has the threshold n θ, which is what it
    sends at the most, and so its rate is what it rounds: without a potential before the first step, without spikes
    that take others back, without a cap.
    """

    def __init__(self, snn: SpikingNetwork, r: float) -> None:
        super().__init__(snn)
        self.r = r
        self.biased: dict[str, tuple[int, ...]] = {}
        """What may have a bias, with its shape."""

    def refusal(self, node: fx.Node) -> str | None:
        """Max pooling needs signed spikes."""
        largest = "rates have no maximum in NIR: nir-exact has one" if pools(node) else None
        return largest or super().refusal(node)

    def matrix(self, weight: Tensor) -> nir.NIRNode:
        """Not every tool reads a matrix without a bias."""
        return nir.Affine(weight=weight.numpy().copy(), bias=np.zeros(len(weight)))

    def scale(self, factor: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
        """Not every tool reads a scale: a convolution by single places, or a matrix, of one dimension."""
        if len(shape) == 1:
            return self.matrix(torch.diag(factor.expand(shape)))
        channels = factor.expand(shape).flatten(1)
        if not bool((channels == channels[:, :1]).all()):
            raise NotConvertible("these have no form in NIR:\na factor that differs from place to place")
        one, none = (1,) * (len(shape) - 1), (0,) * (len(shape) - 1)
        weight = torch.diag(channels[:, 0]).reshape(shape[0], shape[0], *one)
        return convolution(Convolution(weight, one, none, one, shape[1:]), weight)

    def build(self) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
        """All nodes and edges, with each bias in a node that nothing else reads."""
        super().build()
        for name, shape in self.biased.items():
            constant = self.constant(name, shape)
            if name in self.nodes and bool(constant.any()):
                self._bias(name, shape, constant)
        return self.nodes, self.edges

    def _bias(self, name: str, shape: tuple[int, ...], constant: Tensor) -> None:
        by_channel = constant.flatten(1) if len(shape) > 1 else constant[:, None]
        if not torch.allclose(by_channel, by_channel[:, :1].expand_as(by_channel), rtol=1e-12, atol=1e-12):
            raise NotConvertible(f"these have no form in NIR:\n{name}: its bias differs from place to place")
        sources = [source for source, target in self.edges if target == name]
        readers = Counter(source for source, _ in self.edges)
        own = [each for each in sources if hasattr(self.nodes[each], "bias") and readers[each] == 1]
        if not sources:
            raise NotConvertible(f"these have no form in NIR:\n{name}: nothing but a bias arrives there")
        if not own:
            own = [self.add(f"{name}_biased", self.scale(ONE, shape), sources[0])]
            self.edges[self.edges.index((sources[0], name))] = (own[0], name)
        self.nodes[own[0]].bias = by_channel[:, 0].numpy().copy()

    def neuron(self, name: str, node: fx.Node, neuron: Neuron, bundle: Bundle) -> Bundle:
        """A layer of neurons: rate times n θ."""
        if not neuron.cap:
            raise NotConvertible(f"these have no form in NIR:\n{name}: without a cap it has no highest rate")
        shape = self.shape(node)
        highest = neuron.highest * neuron.threshold
        made = nir.IF(
            r=np.full(shape, self.r),
            v_threshold=highest.expand((1, *shape))[0].numpy().copy(),
            v_reset=np.zeros(shape),
        )
        self.biased[name] = shape
        return {self.add(name, made, *self.scaled(name, bundle, shape)): highest}

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle) -> None:
        """What is read out, on average."""
        sources = self.scaled(name, bundle, shape)
        self.biased[name] = shape
        if len(sources) > 1:  # not every tool adds up what an output reads
            sources = [self.add(f"{name}_sum", self.scale(ONE, shape), *sources)]
        self.add(name, nir.Output(output_type={"output": np.array(shape)}), *sources)
