"""What an inference costs: synaptic operations, energy and bits sent, beside networks that do not spike.

A spike costs an addition at every synapse that leads from its neuron. What costs a multiply-add instead: every synapse
of the analog input, once an image, and every event whose size varies, behind an average, say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from qffs import distributed
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.functional.fire import NeuronState
from qffs.graph import images as of_images
from qffs.graph.annotate import label, signals
from qffs.graph.rules import Kind
from qffs.measure.batches import Normalise, fitting, labelled
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
            SPARSE: first + (self.set_bits * energy.add_pj if levels else self.active * product),
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
    ``charge_steps``: D; ``uncounted``: operators of signals whose work nothing here counts, products of two, say.
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
    counts, own = _Counts(snn, steps), distributed.share(len(images))
    with torch.no_grad(), track(f"cost, {steps} steps", len(own), "images", show=progress) as bar:
        for x, _ in labelled(snn, images, normalise, batch_size or fitting(images, 16, steps), workers):
            _Counting(snn.graph, snn.begin(x), charge, counts).run()
            bar.advance(len(x))
    return counts.total(len(images), snn.schedule.steps, energy or Energy())


class _Counts:
    """Sums over the images of this process."""

    def __init__(self, snn: SpikingNetwork, steps: int) -> None:
        self.steps, self.network = steps, snn.graph
        self.like = snn.like
        nodes = list(snn.graph.graph.nodes)
        self.from_input = _from_input(nodes)
        self.read = {node: _counted(node, snn.graph) for node in nodes}
        self.fan_outs: dict[tuple[fx.Node, fx.Node, tuple[int, ...]], Tensor] = {}
        self.synapses: dict[fx.Node, int] = {}
        self.units = {str(n.target): Units(str(n.target), 0, 1, False) for n in nodes if n.meta["kind"] is Kind.SPIKING}
        zeros = torch.zeros(steps, dtype=torch.float64, device=self.like.device)
        self.events = {node: zeros.clone() for node, read in self.read.items() if read}
        self.ends = {node: zeros.new_zeros(2) for node in self.events}  # active, set bits
        self.spikes = {path: zeros.new_zeros(2, steps) for path in self.units}

    def total(self, images: int, charge_steps: int, energy: Energy) -> Cost:
        """The averages over the images of all processes."""
        parts = distributed.totals(*(p.round().long() for p in (*self.events.values(), *self.ends.values(),
                                     *self.spikes.values())))  # fmt: skip
        lists = iter([part.tolist() for part in parts])
        events, ends, spikes = ({key: next(lists) for key in each} for each in (self.events, self.ends, self.spikes))
        synapses = tuple(self._synapses(node, images, events[node], ends[node]) for node in self.synapses)
        activity = tuple(Activity(path, tuple(up), tuple(down)) for path, (up, down) in spikes.items())
        uncounted = (
            f"{label(n, self.network)} at {n.name}"
            for n in self.read
            if n.meta["kind"] is Kind.DIFFERENCED and not n.meta["unit"]
        )
        return Cost(images, charge_steps, synapses, tuple(self.units.values()), activity, tuple(uncounted), energy)

    def _synapses(self, node: fx.Node, images: int, events: Sequence[int], ends: Sequence[int]) -> Synapses:
        read = self.read[node]
        units = all(n.meta["unit"] for n in read)
        analog = self.synapses[node] if any(n in self.from_input for n in read) else 0
        name = str(node.target) if node.op == "call_module" else node.name
        bits = max(_highest(n, self.network) for n in read).bit_length() if units else None
        active, set_bits = (end / images for end in ends)
        return Synapses(
            name, label(node, self.network), work(node, self.network) is Work.WEIGHTED, bits, self.synapses[node],
            analog, tuple(count / images for count in events), active,
            set_bits if units else 0.0,
        )  # fmt: skip


class _Counting(Walk):
    """The reference simulation, which looks at what every operator reads."""

    def __init__(self, network: fx.GraphModule, state: State, charge: tuple[float, ...], counts: _Counts) -> None:
        super().__init__(network, state, charge, self._see)
        self.counts = counts

    def _see(self, path: str, spikes: Tensor, _: NeuronState) -> None:
        for number, sign in enumerate((1, -1)):
            self.counts.spikes[path][number] += (spikes == sign).flatten(1).sum(1)

    def _spiking(self, node: fx.Node) -> Tensor:
        (read,) = signals(node)
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        count = self._at_rest(read)[:1].numel()
        self.counts.units[path] = Units(path, count, neuron.highest, self.values[read].constant is not None)
        return super()._spiking(node)

    def _linear(self, node: fx.Node) -> Pair:
        read = self.counts.read[node]
        if read:
            self.counts.synapses[node] = round(sum(float(self._count(node, n)) for n in read))
        return super()._linear(node)

    def _count(self, node: fx.Node, read: fx.Node) -> Tensor:
        """Count what an operator reads of a signal; returned: all synapses that lead from it."""
        constant, increments = self.values[read]
        value = constant if increments is None else increments
        d, rows = of_images.dimension(read), of_images.rows(read)
        key = (node, read, tuple(value.shape))
        if key not in self.counts.fan_outs:
            others = {n: self.values[n].constant for n in node.all_input_nodes if not n.meta["signal"]}
            like = value.new_zeros(()).expand(of_images.shape(value, read, rows))
            self.counts.fan_outs[key] = fan_out(node, self.network, others, like)
        fan = self.counts.fan_outs[key]
        if increments is not None:
            x = of_images.unfold_steps(increments, d, self.steps, images_first=True)
            fan_of_all = fan.movedim(d, 0).repeat(x.shape[1] // rows, *[1] * (fan.dim() - 1))
            self.counts.events[node] += ((x != 0) * fan_of_all).flatten(1).sum(1)
            self._count_end(node, x, fan_of_all)
        return fan.sum()

    def _count_end(self, node: fx.Node, x: Tensor, fan_of_all: Tensor) -> None:
        """What is active after the last step; every event of a unit has the same size where levels are read."""
        end = x.sum(0)
        size = x.abs().amax((0, 1))
        share = torch.where(size > 0, end / size, 0)
        level, active = share.round().long(), share.abs() > ROUNDING
        bits = sum((level >> bit & 1) for bit in range(8))
        self.counts.ends[node] += torch.stack([(active * fan_of_all).sum(), (bits * fan_of_all).sum()])


def _from_input(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes whose constant part comes from the network's input."""
    found: set[fx.Node] = set()
    for node in nodes:
        passes = node.meta["kind"] in {Kind.LINEAR, Kind.SUM, Kind.JOIN} or node.meta["analog"]
        if node.op == "placeholder" or (node.meta["signal"] and passes and any(n in found for n in signals(node))):
            found.add(node)
    return found


def _counted(node: fx.Node, network: fx.GraphModule) -> list[fx.Node]:
    """The signals that an operator does work on; of a sum, spikes, for what went through synapses is added up there."""
    if node.meta["kind"] not in {Kind.LINEAR, Kind.SUM} or work(node, network) is Work.MOVED:
        return []
    read = list(dict.fromkeys(signals(node)))
    return [n for n in read if n.meta["unit"]] if node.meta["kind"] is Kind.SUM else read


def _highest(node: fx.Node, network: fx.GraphModule) -> int:
    """The highest level of the neurons whose spikes a node passes on."""
    if node.meta["kind"] is Kind.SPIKING:
        neuron = network.get_submodule(str(node.target))
        assert isinstance(neuron, Neuron)
        return neuron.highest
    return max(_highest(read, network) for read in signals(node))
