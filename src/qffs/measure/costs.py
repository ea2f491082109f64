"""What an inference costs: synaptic operations, energy and bits sent, beside networks that do not spike.

A spike costs an addition at every synapse that leads from its neuron. What costs a multiply-add instead: every synapse
of the analog input, once an image, and every event whose size varies, behind an average, say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from qffs import distributed
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.functional.fire import NeuronState
from qffs.graph import images as of_images
from qffs.graph.annotate import label, signals
from qffs.graph.rules import Kind
from qffs.measure.batches import Normalise, fitting, inputs, labelled
from qffs.measure.classified import Activity
from qffs.measure.fanout import Work, fan_out, work
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.progress import track
from qffs.simulate import Pair, Walk
from qffs.state import State

MULTIPLY_ADD_PJ, ADD_PJ = 4.6, 0.9
"""Energy of a float32 multiply-add (3.7 for the product) and of an addition, at 45 nm, in pJ: Horowitz, ISSCC 2014."""
FLOAT_BITS = 32
ROUNDING = 1e-5
"""What may be left, of the size of an event, where events have cancelled."""
FULL_PRECISION, QANN, SPARSE, SNN = "full precision", "QANN", "QANN, zeros skipped", "SNN"


@dataclass(frozen=True)
class Energy:
    """What an operation takes, in pJ."""

    multiply_add_pj: float = MULTIPLY_ADD_PJ
    add_pj: float = ADD_PJ

    def __post_init__(self) -> None:
        for name, value in (("a multiply-add", self.multiply_add_pj), ("an addition", self.add_pj)):
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InvalidArgument(f"the energy of {name} must be a number of pJ, not {value!r}")


@dataclass(frozen=True)
class Synapses:
    """One operator that multiplies by weights or adds up; all numbers are those of an image.

    ``count``: its synapses, which are the operations of a dense pass, without those that a border cuts off;
    ``weighted``: whether they have weights; ``bits``: of the levels that it reads, None where it reads other values;
    ``analog``: how many the analog input passes, once; ``events``: synaptic operations by step; ``active``: synapses of
    the units that are not 0 after the last step; ``set_bits``: those, times the bits that are 1 in the unit's level.
    """

    layer: str
    operator: str
    weighted: bool
    bits: int | None
    count: int
    analog: int
    events: tuple[float, ...]
    active: float
    set_bits: float

    def energy_pj(self, energy: Energy) -> dict[str, float]:
        """By network; see `Cost.energy_pj`."""
        product = energy.multiply_add_pj if self.weighted else energy.add_pj
        levels = self.bits is not None and self.weighted
        first = self.analog * product
        dense = max(0, self.count - self.analog)
        return {
            FULL_PRECISION: self.count * product,
            QANN: first + dense * (energy.add_pj * (self.bits or 1) if levels else product),
            SPARSE: first + (self.set_bits * energy.add_pj if levels else min(self.active, dense) * product),
            SNN: first + sum(self.events) * (energy.add_pj if self.bits is not None else product),
        }


@dataclass(frozen=True)
class Units:
    """The neurons of a layer: how many, their highest level, and whether input or biases are injected into them."""

    layer: str
    count: int
    highest: int
    charged: bool


@dataclass(frozen=True)
class Cost:
    """What an inference costs, on average over ``images``.

    ``synapses``: by operator; ``units`` and ``activity`` (spikes summed over all images): by layer of neurons;
    ``charge_steps``: D; ``uncounted``: operators whose work nothing here counts: products of two signals, scalings.
    """

    images: int
    charge_steps: int
    synapses: tuple[Synapses, ...]
    units: tuple[Units, ...]
    activity: tuple[Activity, ...]
    uncounted: tuple[str, ...]
    energy: Energy = field(default_factory=Energy)

    @property
    def spikes(self) -> tuple[float, float]:
        """Positive and negative spikes an image."""
        positive, negative = (
            sum(sum(getattr(each, sign)) for each in self.activity) / self.images for sign in ("positive", "negative")
        )
        return positive, negative

    @property
    def operations(self) -> dict[str, float]:
        """Of the spiking network, an image.

        ``synaptic``: additions of spikes; ``multiply-adds``: of the analog input and of events whose size varies;
        ``injected``: additions of input and biases, one for each neuron that has any and step of the schedule.
        """
        spiking = [each for each in self.synapses if each.bits is not None or not each.weighted]
        values = [each for each in self.synapses if each.bits is None and each.weighted]
        return {
            "synaptic": sum(sum(each.events) for each in spiking),
            "multiply-adds": float(sum(each.analog for each in self.synapses)) + sum(sum(e.events) for e in values),
            "injected": float(self.charge_steps * sum(each.count for each in self.units if each.charged)),
        }

    @property
    def energy_pj(self) -> dict[str, float]:
        """Of the arithmetic of four networks, an image, in pJ; memory and neurons' own work are left out in all.

        Full precision: a multiply-add a synapse. QANN: a product with a level of b bits is b additions of shifted
        weights. QANN, zeros skipped: only additions for bits that are 1. SNN: an addition a synaptic operation, and
        what is injected. What arrives analog, or as other values than levels, is multiplied in all.
        """
        each = [synapses.energy_pj(self.energy) for synapses in self.synapses]
        total = {name: sum(one[name] for one in each) for name in (FULL_PRECISION, QANN, SPARSE, SNN)}
        total[SNN] += self.operations["injected"] * self.energy.add_pj
        return total

    @property
    def bits_sent(self) -> dict[str, float]:
        """From all layers of neurons, an image: activations in full, as levels; of spikes a sign, with an address.

        An address has as many bits as it takes to tell the neurons of a layer apart.
        """
        spikes = {each.layer: (sum(each.positive) + sum(each.negative)) / self.images for each in self.activity}
        return {
            FULL_PRECISION: float(FLOAT_BITS * sum(each.count for each in self.units)),
            QANN: float(sum(each.count * each.highest.bit_length() for each in self.units)),
            "SNN, signs": sum(spikes.values()),
            "SNN, with addresses": sum(spikes[each.layer] * (1 + (each.count - 1).bit_length()) for each in self.units),
        }


def cost(
    snn: SpikingNetwork,
    images: Images,
    normalise: Normalise,
    steps: int,
    *,
    energy: Energy | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Cost:
    """Count what ``snn`` does on every image in T steps; see `Cost`.

    The levels that the quantised network would have are taken to be those after step T. Arguments as in `measure`;
    energy: of an operation, by default at 45 nm. Raises `InvalidArgument` where T is less than the charge steps.
    """
    charge = snn.schedule.over(steps)
    with torch.no_grad():
        counts, own = _Counts(snn, steps, _one(snn, images, normalise)), distributed.share(len(images))
        with track(f"cost, {steps} steps", len(own), "images", show=progress) as bar:
            for x, _ in labelled(snn, images, normalise, batch_size or fitting(images, 16, steps), workers):
                _Counting(snn.graph, snn.begin(x), charge, counts).run()
                bar.advance(len(x))
    return counts.total(len(images), snn.schedule.steps, energy or Energy())


def _one(snn: SpikingNetwork, images: Images, normalise: Normalise) -> Tensor:
    return inputs(snn, normalise(images.read(torch.tensor([0]))))


@dataclass
class _Read:
    """What an operator reads of one signal: units with their ``fan_out``, images in the first dimension.

    ``analog``: synapses of the units that depend on the network's input without a neuron between.
    """

    node: fx.Node
    fan_out: Tensor
    analog: int


class _Counts:
    """Sums over the images of this process, and what is known of the network before: units and their synapses."""

    def __init__(self, snn: SpikingNetwork, steps: int, image: Tensor) -> None:
        self.network, self.steps = snn.graph, steps
        nodes = list(snn.graph.graph.nodes)
        self.single = _single(nodes, snn.graph)
        self.uncounted = [n for n in nodes if _is_uncounted(n, snn.graph)]
        self.reads: dict[fx.Node, list[_Read]] = {}
        self.units: dict[str, Units] = {}
        # Two images of noise: what of a constant part differs between them depends on the input.
        noise = torch.randn(2, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
        _Probe(snn.graph, snn.begin(noise), (1.0,), self).run()
        zeros = torch.zeros(steps, dtype=torch.float64, device=image.device)
        self.events = {node: zeros.clone() for node in self.reads}
        self.ends = {node: zeros.new_zeros(2) for node in self.reads}  # active, set bits
        self.spikes = {path: zeros.new_zeros(2, steps) for path in self.units}

    def total(self, images: int, charge_steps: int, energy: Energy) -> Cost:
        """The averages over the images of all processes."""
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


class _Probe(Walk):
    """One step of two images, which finds out what the network consists of."""

    def __init__(self, network: fx.GraphModule, state: State, charge: tuple[float, ...], counts: _Counts) -> None:
        super().__init__(network, state, charge, None)
        self.counts = counts

    def _spiking(self, node: fx.Node) -> Tensor:
        (read,) = signals(node)
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        count = self._at_rest(read).numel() // self.batch
        self.counts.units[path] = Units(path, count, neuron.highest, self.values[read].constant is not None)
        return super()._spiking(node)

    def _linear(self, node: fx.Node) -> Pair:
        if work(node, self.network) in {Work.WEIGHTED, Work.ADDED}:
            read = dict.fromkeys(signals(node))
            if node.meta["kind"] is Kind.SUM:  # what went through synapses is added up at the neuron anyway
                read = {n: None for n in read if n in self.counts.single}
            found = [self._read(node, n) for n in read]
            if found:
                self.counts.reads[node] = found
        return super()._linear(node)

    def _read(self, node: fx.Node, read: fx.Node) -> _Read:
        constant, increments = self.values[read]
        value = constant if increments is None else increments
        d, rows = of_images.dimension(read), of_images.rows(read)
        others = {n: self.values[n].constant for n in node.all_input_nodes if not n.meta["signal"]}
        like = value.new_zeros(()).expand(of_images.shape(value, read, rows))
        counts = fan_out(node, read, self.network, others, like).movedim(d, 0)
        depends = torch.zeros_like(counts, dtype=torch.bool)
        if constant is not None and constant.shape[d] == 2 * rows:
            one, other = constant.movedim(d, 0).split(rows)
            depends = one != other
        return _Read(read, counts, round(float((counts * depends).sum())))


class _Counting(Walk):
    """The reference simulation, which looks at what every operator reads."""

    def __init__(self, network: fx.GraphModule, state: State, charge: tuple[float, ...], counts: _Counts) -> None:
        super().__init__(network, state, charge, self._see)
        self.counts = counts

    def _see(self, path: str, spikes: Tensor, _: NeuronState) -> None:
        for number, sign in enumerate((1, -1)):
            self.counts.spikes[path][number] += (spikes == sign).flatten(1).sum(1)

    def _linear(self, node: fx.Node) -> Pair:
        for read in self.counts.reads.get(node, ()):
            increments = self.values[read.node].increments
            if increments is not None:
                self._count(node, read, increments)
        return super()._linear(node)

    def _count(self, node: fx.Node, read: _Read, increments: Tensor) -> None:
        """Count the events of a signal, and what is active after the last step, each at all its synapses."""
        x = of_images.unfold_steps(increments, of_images.dimension(read.node), self.steps, images_first=True)
        fan = read.fan_out.repeat(x.shape[1] // len(read.fan_out), *[1] * (read.fan_out.dim() - 1))
        size = x.abs().amax((0, 1))  # every event of a unit has this, where levels are read
        self.counts.events[node] += ((x.abs() > ROUNDING * size) * fan).flatten(1).sum(1)
        share = torch.where(size > 0, x.sum(0) / size, 0)
        level, active = share.round().long(), share.abs() > ROUNDING
        bits = sum((level >> bit & 1) for bit in range(8))
        self.counts.ends[node] += torch.stack([(active * fan).sum(), (bits * fan).sum()])


def _single(nodes: Sequence[fx.Node], network: nn.Module) -> set[fx.Node]:
    """Signals whose units each have events of one size: neurons' own, wherever they are moved, and their largest."""
    found: set[fx.Node] = set()
    for node in nodes:
        match node.meta["kind"]:
            case Kind.SPIKING:
                single = True
            case Kind.DIFFERENCED:
                single = bool(node.meta["unit"])
            case Kind.LINEAR | Kind.JOIN:
                passed = work(node, network) is Work.PASSED
                single = passed and all(n in found or n.meta["analog"] for n in signals(node))
            case _:
                single = False
        if single and not node.meta["analog"]:
            found.add(node)
    return found


def _is_uncounted(node: fx.Node, network: nn.Module) -> bool:
    if node.meta["kind"] is Kind.DIFFERENCED:
        return not node.meta["unit"]
    return node.meta["kind"] in {Kind.LINEAR, Kind.JOIN} and work(node, network) is Work.OTHER


def _highest(node: fx.Node, network: fx.GraphModule) -> int:
    """The highest level of the neurons whose spikes a node passes on; 0 where there are none."""
    if node.meta["kind"] is Kind.SPIKING:
        neuron = network.get_submodule(str(node.target))
        assert isinstance(neuron, Neuron)
        return neuron.highest
    return max((_highest(read, network) for read in signals(node)), default=0)
