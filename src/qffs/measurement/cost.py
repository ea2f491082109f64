"""The operations of a spiking network, counted during the reference simulation, at the inputs of every operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qffs.data import Images
from qffs.graph import batch_axis as of_images
from qffs.graph.call import label, signals
from qffs.graph.site import Kind, site
from qffs.measurement.activity import Activity
from qffs.measurement.batches import Normalize, fitting, inputs, labeled
from qffs.measurement.energy import Cost, Energy, Synapses, Units
from qffs.measurement.fan_out import Work, fan_out, work
from qffs.nn.neuron import Neuron
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.operands import shape
from qffs.spiking.step_by_step import Reference, State
from qffs.spiking.walk import walk
from qffs.train import distributed

LINEAR = (Kind.LINEAR, Kind.SUM, Kind.JOIN)
ROUNDING = 1e-5
"""The largest remainder, relative to the size of one event, that counts as zero where events have canceled."""


def cost(
    snn: SpikingNetwork,
    images: Images,
    normalize: Normalize,
    steps: int,
    *,
    energy: Energy | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Cost:
    """Return the operations, energy and bits of a spiking network in T steps, averaged over the images; see `Cost`.

    The levels of the quantized network are taken from the counts of spikes after step T. energy: the energy of one
    operation, by default at 45 nm. batch_size: images at a time, by default 16, and fewer where the images are large or
    T is large. The other arguments are those of `qffs.measure`.

    Raises `InvalidArgument` if T is less than the number of charge steps, and `DataError` if an image cannot be read.
    """
    charge = snn.schedule.over(steps)
    with torch.no_grad():
        counts, numbers = _Counts(snn, steps, _one(snn, images, normalize)), distributed.share(len(images))
        with track(f"cost, {steps} steps", len(numbers), "images", show=progress) as bar:
            for x, _ in labeled(snn, images, normalize, batch_size or fitting(images, 16, steps), workers):
                _Counter(counts, snn.initial_state(x), charge).count()
                bar.advance(len(x))
    return counts.total(len(images), snn.schedule.steps, energy or Energy())


def _one(snn: SpikingNetwork, images: Images, normalize: Normalize) -> Tensor:
    return inputs(snn, normalize(images.read(torch.tensor([0]))))


@dataclass
class _Read:
    """One signal that an operator reads.

    node: the node of the signal. fan_out: the number of synapses of each unit, with the images in the first dimension.
    analog: the number of synapses of units that depend on the input of the network without passing a neuron.
    """

    node: fx.Node
    fan_out: Tensor
    analog: int


class _Counts:
    """Sums over the images of this process, and the units and synapses of the network, counted before the run."""

    def __init__(self, snn: SpikingNetwork, steps: int, image: Tensor) -> None:
        self.operations, self.network, self.steps = snn.operations, snn.graph, steps
        nodes = list(snn.graph.graph.nodes)
        self.single = _single(nodes, snn.graph)
        self.uncounted = [n for n in nodes if _is_uncounted(n, snn.graph)]
        self.reads: dict[fx.Node, list[_Read]] = {}
        self.units: dict[str, Units] = {}
        # Two images of noise: the values of a constant part that differ between them depend on the input.
        noise = torch.randn(2, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
        walked = Reference(snn.operations, snn.initial_state(noise), (1.0,))
        walk(snn.operations, (noise,), walked, before=_Survey(self, walked).look)
        zeros = torch.zeros(steps, dtype=torch.float64, device=image.device)
        self.events = {node: zeros.clone() for node in self.reads}
        self.ends = {node: zeros.new_zeros(2) for node in self.reads}  # active, set bits
        self.spikes = {path: zeros.new_zeros(2, steps) for path in self.units}

    def total(self, images: int, charge_steps: int, energy: Energy) -> Cost:
        """Return the averages over the images of all processes."""
        every = (*self.events.values(), *self.ends.values(), *self.spikes.values())
        lists = iter([part.tolist() for part in distributed.totals(*(part.round().long() for part in every))])
        events, ends = ({node: next(lists) for node in each} for each in (self.events, self.ends))
        spikes = {path: next(lists) for path in self.spikes}
        synapses = tuple(self._synapses(node, images, events[node], ends[node]) for node in self.reads)
        activity = tuple(Activity(path, tuple(up), tuple(down)) for path, (up, down) in spikes.items())
        uncounted = tuple(f"{label(n, self.network)} at {n.name}" for n in self.uncounted)
        return Cost(images, charge_steps, synapses, tuple(self.units.values()), activity, uncounted, energy)

    def _synapses(self, node: fx.Node, images: int, events: Sequence[int], ends: Sequence[int]) -> Synapses:
        reads = self.reads[node]
        highest = max((_highest(read.node, self.network) for read in reads), default=0)
        levels = highest > 0 and all(read.node in self.single for read in reads)
        active, set_bits = (end / images for end in ends)
        return Synapses(
            layer=str(node.target) if node.op == "call_module" else node.name,
            operator=label(node, self.network),
            weighted=work(node, self.network) is Work.WEIGHTED,
            bits=highest.bit_length() if levels else None,
            count=round(sum(float(read.fan_out.sum()) for read in reads)),
            analog=sum(read.analog for read in reads),
            events=tuple(count / images for count in events),
            active=active,
            set_bits=set_bits if levels else 0.0,
        )


class _Survey:
    """A survey of the layers and synapses of the network, in one step with two images."""

    def __init__(self, counts: _Counts, walked: Reference) -> None:
        self.counts, self.walked = counts, walked

    def look(self, node: fx.Node) -> None:
        """Record the units of a layer of neurons, or the inputs of an operator with synapses, before it runs."""
        network = self.walked.network
        if site(node).kind is Kind.SPIKING:
            (read,) = signals(node)
            path = str(node.target)
            neuron = network.get_submodule(path)
            assert isinstance(neuron, Neuron)
            count = self.walked.zeros(read).numel() // self.walked.images
            charged = self.walked.values[read].constant is not None
            self.counts.units[path] = Units(path, count, neuron.highest, charged)
        elif site(node).kind in LINEAR and work(node, network) in {Work.WEIGHTED, Work.ADDED}:
            sources = list(dict.fromkeys(signals(node)))
            if site(node).kind is Kind.SUM:  # the neuron adds up what arrives through synapses anyway
                sources = [n for n in sources if n in self.counts.single]
            if sources:
                self.counts.reads[node] = [self._read(node, n) for n in sources]

    def _read(self, node: fx.Node, read: fx.Node) -> _Read:
        constant, increments = self.walked.values[read]
        value = constant if increments is None else increments
        d, rows = of_images.dimension(read), of_images.rows(read)
        others = {n: self.walked.values[n].constant for n in node.all_input_nodes if not site(n).signal}
        like = value.new_zeros(()).expand(shape(value, self.walked.operations.of[read], rows))
        counts = fan_out(node, read, self.walked.network, others, like).movedim(d, 0)
        depends = torch.zeros_like(counts, dtype=torch.bool)
        if constant is not None and constant.shape[d] == 2 * rows:
            one, other = constant.movedim(d, 0).split(rows)
            depends = one != other
        return _Read(read, counts, round(float((counts * depends).sum())))


class _Counter:
    """A counter of the events that every operator reads in the reference simulation of one batch."""

    def __init__(self, counts: _Counts, state: State, charge: tuple[float, ...]) -> None:
        self.counts = counts
        self.walked = Reference(counts.operations, state, charge, self._see)

    def count(self) -> None:
        """Simulate the batch and add its events and spikes to the counts."""
        walk(self.walked.operations, self.walked.state.inputs, self.walked, before=self._look)

    def _see(self, path: str, spikes: Tensor, _: object) -> None:
        for number, sign in enumerate((1, -1)):
            self.counts.spikes[path][number] += (sign * spikes).clamp_min(0).flatten(1).sum(1)

    def _look(self, node: fx.Node) -> None:
        for read in self.counts.reads.get(node, ()):
            increments = self.walked.values[read.node].increments
            if increments is not None:
                self._count(node, read, increments)

    def _count(self, node: fx.Node, read: _Read, increments: Tensor) -> None:
        """Count the events of a signal, and the units that are active after the last step, each at all its synapses."""
        x = of_images.unfold_steps(increments, of_images.dimension(read.node), self.walked.steps, images_first=True)
        fan = read.fan_out.repeat(x.shape[1] // len(read.fan_out), *[1] * (read.fan_out.dim() - 1))
        size = x.abs().amax((0, 1))  # the size of every event of a unit, if the signal carries levels
        self.counts.events[node] += ((x.abs() > ROUNDING * size) * fan).flatten(1).sum(1)
        share = torch.where(size > 0, x.sum(0) / size, 0)
        level, active = share.round().long(), share.abs() > ROUNDING
        bits = sum((level >> bit & 1) for bit in range(8))
        self.counts.ends[node] += torch.stack([(active * fan).sum(), (bits * fan).sum()])


def _single(nodes: Sequence[fx.Node], network: nn.Module) -> set[fx.Node]:
    """Return the nodes whose units each have events of one size.

    These are the spikes of neurons, also where operators move them or take the largest of them. Neurons that send
    several spikes at once send values.
    """
    singles: set[fx.Node] = set()
    for node in nodes:
        match site(node).kind:
            case Kind.SPIKING:
                neuron = network.get_submodule(str(node.target))
                single = not (isinstance(neuron, Neuron) and neuron.rule.multi_spike)
            case Kind.DIFFERENCED | Kind.LINEAR | Kind.JOIN as kind:
                passes = bool(site(node).unit) if kind is Kind.DIFFERENCED else work(node, network) is Work.PASSED
                single = passes and all(n in singles or site(n).analog for n in signals(node))
            case _:
                single = False
        if single and not site(node).analog:
            singles.add(node)
    return singles


def _is_uncounted(node: fx.Node, network: nn.Module) -> bool:
    if site(node).kind is Kind.DIFFERENCED:
        return not site(node).unit
    return site(node).kind in {Kind.LINEAR, Kind.JOIN} and work(node, network) is Work.OTHER


def _highest(node: fx.Node, network: fx.GraphModule) -> int:
    """Return the highest level of the neurons whose spikes a node passes on; 0 where there are no neurons."""
    if site(node).kind is Kind.SPIKING:
        neuron = network.get_submodule(str(node.target))
        assert isinstance(neuron, Neuron)
        return neuron.highest
    return max((_highest(read, network) for read in signals(node)), default=0)
