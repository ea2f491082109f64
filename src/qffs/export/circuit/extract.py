"""The circuit of a spiking network, read from its unit responses.

The operators between two layers of neurons are linear, so together they are one weight for each pair of units. To find
the weights, the operators are applied to single spikes of each unit, and the values that arrive are recorded. The input
and the biases bring a current, which is linear in the input too.

Max pooling takes the largest count of spikes in a window. Signed neurons can compute it: a neuron with θ = 1, n = 1 and
potential ``3/2 - k`` before the first step has the count 1 while k or more spikes have arrived, and the count 0 while
fewer have arrived. So there are two layers of such neurons. In the first, one neuron for each level k = 1, ..., n and
each unit tests whether the count of the unit is at least k. In the second, one neuron with k = 1 for each level and
each window tests whether this holds for any unit of the window. The number of active neurons in the second layer, over
all levels, is the largest count of the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.circuit.circuit import Circuit, Population, Synapses
from qffs.export.circuit.unit_response import UnitResponse, flat, names_of, pools, refusal, refusals, shape_of, spread
from qffs.graph import batch_axis
from qffs.graph.replace import plain_copy
from qffs.graph.site import Kind, site, tensor_shape
from qffs.nn.neuron import Neuron
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.operations import operations

UNITS = 100_000
"""The largest number of units: inputs, neurons, and poolings with all their levels."""

TOGETHER = 64
"""The number of units in one pass."""


@torch.no_grad()
def circuit(snn: SpikingNetwork, progress: bool = False) -> Circuit:
    """Return the circuit of a spiking network, with populations named by `unit_response.names_of`.

    progress: show a progress bar on stderr. Raises `NotConvertible` with the name of each operator that is not linear
    and does not take the largest of counts, and on a network with more than `UNITS` units.
    """
    if reasons := refusals(snn.graph, refusal):
        raise NotConvertible("these are no synapses between neurons:\n" + "\n".join(reasons))
    probes = _Probes(snn)
    units = probes.count()
    if units > UNITS:
        raise NotConvertible(f"this network has {units:,} units, and at most {UNITS:,} are written unit by unit")
    with track("synapses", sum(map(math.prod, probes.sources.values())), "units", show=progress) as bar:
        for source in probes.sources:
            probes.look(source, bar.advance)
    synapses = tuple(probes.synapses())
    depths: dict[str, int] = {}
    populations = tuple(probes.populations())
    for each in populations:
        before = [depths[s.source] for s in synapses if s.target == each.name and s.source in depths]
        depths[each.name] = 1 + max(before, default=-1)
    placed = tuple(replace(each, depth=depths[each.name]) for each in populations)
    return Circuit(probes.inputs, placed, synapses, snn.schedule.weights)


def _single(size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the unit vectors of a population in batches ``[B, N]``, each with the index of its first unit."""
    for start in range(0, size, TOGETHER):
        units = torch.zeros((min(TOGETHER, size - start), size), dtype=torch.float64)
        units.diagonal(start).fill_(1.0)
        yield start, units


Raw = dict[str, Tensor]
"""By target, ``[3, K]``: for each synapse the unit that sends, the unit that receives, and the weight."""


class _Probes:
    """The runs of a network on single units of its ``sources``: inputs, layers of neurons and poolings, by name."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.network = plain_copy(snn.graph).cpu().double()
        self.operations = operations(self.network)
        named = names_of(self.network)
        nodes = {name: node for node, name in named.items() if isinstance(node, fx.Node)}
        self.inputs = {name: tuple(tensor_shape(node)[1:]) for name, node in nodes.items() if node.op == "placeholder"}
        self.neurons = {name: node for name, node in nodes.items() if site(node).kind is Kind.SPIKING}
        self.pools = {name: node for name, node in nodes.items() if pools(node)}
        order = {node: number for number, node in enumerate(self.network.graph.nodes)}
        senders = sorted({**self.neurons, **self.pools}.items(), key=lambda item: order[item[1]])
        self.sources = self.inputs | {name: shape_of(node) for name, node in senders}
        self.raw: dict[str, Raw] = {}
        self.θ = {path: self._threshold(path) for path in self.neurons}
        self.highest = {path: self._neuron(path).highest for path in self.neurons}
        self.windows: dict[str, Tensor] = {}
        resting = self._arrivals({name: torch.zeros((1, *shape)) for name, shape in self.inputs.items()})
        self.targets, self.bias = list(resting), {name: each[0] for name, each in resting.items()}

    def _neuron(self, name: str) -> Neuron:
        neuron = self.network.get_submodule(str(self.neurons[name].target))
        assert isinstance(neuron, Neuron)
        return neuron

    def _threshold(self, path: str) -> Tensor:
        """Return θ for each unit."""
        node = self.neurons[path]
        d = batch_axis.dimension(node)
        one = [batch_axis.rows(node) if k == d else size for k, size in enumerate(tensor_shape(node))]
        return flat(self._neuron(path).threshold.expand(one), node, 1)[0]

    def count(self) -> int:
        """Return the number of units of inputs, neurons and poolings; for poolings, an upper bound."""
        levels = max(self.highest.values(), default=1)
        pooled = sum(math.prod(shape_of(n)) + math.prod(shape_of(n.all_input_nodes[0])) for n in self.pools.values())
        return int(sum(math.prod(self.sources[name]) for name in (*self.inputs, *self.neurons)) + levels * pooled)

    def look(self, source: str, advance: Callable[[int], object]) -> None:
        """Record the synapses from each unit of a source; call it for the sources in the order of computation."""
        if source in self.pools:
            self._pool(source)
        size = math.prod(self.sources[source])
        synapses: dict[str, list[Tensor]] = {}
        for start, units in _single(size):
            for target, weights in self._of(source, units).items():
                pre, post = weights.nonzero(as_tuple=True)
                synapses.setdefault(target, []).append(torch.stack([pre + start, post, weights[pre, post]]))
            advance(len(units))
        joined = {target: torch.cat(parts, 1) for target, parts in synapses.items()}
        self.raw[source] = {target: each for target, each in joined.items() if each.shape[1]}

    def _of(self, source: str, units: Tensor) -> dict[str, Tensor]:
        """Return the values that arrive at each target from one spike, or an input of 1, of each of these units."""
        count = len(units)
        nothing = {name: torch.zeros((1, *shape)).expand(count, *shape) for name, shape in self.inputs.items()}
        if source not in self.inputs:
            return self._arrivals(nothing, {source: units * self.θ[source]})
        arrived = self._arrivals(nothing | {source: units.view(count, *self.inputs[source])})
        return {target: each - self.bias[target] for target, each in arrived.items()}

    def _arrivals(self, inputs: dict[str, Tensor], sent: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        values = tuple(x.double() for x in inputs.values())
        return UnitResponse(self.operations, values, sent).arrivals()

    def _pool(self, name: str) -> None:
        """Record the windows of a pooling, after the synapses that lead to it; raise `NotConvertible` on unequal θ."""
        node = self.pools[name]
        (read,) = node.all_input_nodes
        before = {source: raw[name] for source, raw in self.raw.items() if name in raw}
        self.highest[name] = max((self.highest[source] for source in before), default=1)
        θ = torch.zeros(math.prod(shape_of(read)), dtype=torch.float64)
        for _, post, weight in before.values():
            θ[post.long()] = weight
        pairs = []
        for start, units in _single(len(θ)):
            pooled = flat(
                UnitResponse(self.operations, (units,), {}).applied(node, spread(units, read)), node, len(units)
            )
            inside, of = pooled.nonzero(as_tuple=True)
            pairs.append(torch.stack([inside + start, of]))
        inside, of = torch.cat(pairs, 1)
        inside, of = (
            inside[θ[inside] > 0],
            of[θ[inside] > 0],
        )  # only units that receive spikes: the others are zeros of a padding
        self.windows[name] = torch.stack([inside, of])
        self.θ[name] = torch.zeros(pooled.shape[1], dtype=torch.float64).index_copy(0, of, θ[inside])
        if not torch.equal(self.θ[name][of], θ[inside]):
            raise NotConvertible(f"{name} takes the largest of neurons with different thresholds")

    def _levels(self, name: str) -> int:
        """Return the number of neurons that represent one unit."""
        return self.highest[name] if name in self.pools else 1

    def synapses(self) -> Iterator[Synapses]:
        """Yield all synapses; those of a pooling once for each of its levels."""
        for source, raw in self.raw.items():
            for target, (pre, post, weight) in raw.items():
                pools = target in self.pools
                one, other = math.prod(self.sources[source]), len(self.bias[target])
                pairs = [(pre.long() + one * k, post.long() + other * m)
                         for k in range(self._levels(source)) for m in range(self._levels(target))]  # fmt: skip
                weights = (torch.ones_like(weight) if pools else weight).repeat(len(pairs))
                pres, posts = map(torch.cat, zip(*pairs, strict=True))
                yield Synapses(source, _counting(target) if pools else target, pres, posts, weights)
        for name, (within, of) in self.windows.items():
            one, other, levels = len(self.bias[name]), len(self.θ[name]), range(self._levels(name))
            pres, posts = (torch.cat([each + size * k for k in levels]) for each, size in ((within, one), (of, other)))
            yield Synapses(_counting(name), name, pres, posts, torch.ones(len(pres), dtype=torch.float64))

    def populations(self) -> Iterator[Population]:
        """Yield all populations in the order of computation, with depth 0."""
        for name in self.targets:
            bias = self.bias[name]
            if name in self.pools:
                levels, (read,) = self._levels(name), self.pools[name].all_input_nodes
                ones = torch.ones(levels * len(bias), dtype=torch.float64)
                first = 0.5 - torch.arange(levels, dtype=torch.float64).repeat_interleave(len(bias))
                yield Population(_counting(name), (levels, *shape_of(read)), ones, first, 0 * ones, 1)
                ones = torch.ones(levels * len(self.θ[name]), dtype=torch.float64)
                yield Population(name, (levels, *self.sources[name]), ones, 0.5 * ones, 0 * ones, 1)
            elif name in self.neurons:
                θ, neuron = self.θ[name], self._neuron(name)
                highest = neuron.highest if neuron.rule.cap else math.inf
                initial = neuron.precharge * θ
                yield Population(name, self.sources[name], θ, initial, bias, highest, neuron.rule.negative_spikes)
            else:
                yield Population(name, tuple(bias.shape), torch.full_like(bias, torch.inf), 0 * bias, bias)


def _counting(pool: str) -> str:
    """Return the name of the population that tests, for each unit that a pooling reads, which levels it has reached."""
    return f"{pool}.levels"
