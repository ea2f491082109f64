"""The cost of an inference: synaptic operations, energy and bits, compared with networks that do not spike.

A spike costs one addition at every synapse that leads from its neuron. Two things cost a multiply-add instead: every
synapse of the analog input, once per image; and every event whose size varies, for example behind average pooling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qffs.errors import InvalidArgument
from qffs.measurement.activity import Activity

MULTIPLY_ADD_PJ, ADD_PJ = 4.6, 0.9
"""Energy of a float32 multiply-add (3.7 for the product) and of an addition, at 45 nm, in pJ: Horowitz, ISSCC 2014."""
HIGHEST_PJ = 1e15
"""The highest energy of one operation, a kilojoule: sums of it stay finite."""
FLOAT_BITS = 32
FULL_PRECISION, QANN, SPARSE, SNN = "full precision", "QANN", "QANN, zeros skipped", "SNN"


@dataclass(frozen=True)
class Energy:
    """The energy of one operation, in pJ; raises `InvalidArgument` on a value below 0 or above `HIGHEST_PJ`."""

    multiply_add_pj: float = MULTIPLY_ADD_PJ
    add_pj: float = ADD_PJ

    def __post_init__(self) -> None:
        for name, value in (("a multiply-add", self.multiply_add_pj), ("an addition", self.add_pj)):
            if not isinstance(value, int | float) or not 0 <= value <= HIGHEST_PJ:
                raise InvalidArgument(f"the energy of {name} must be a number of pJ, not {value!r}")


@dataclass(frozen=True)
class Synapses:
    """The synapses of one operator that multiplies by weights or adds up; all numbers are per image.

    layer, operator: the path of the operator and its type. weighted: whether the synapses have weights.
    bits: the bits of the levels that the operator reads; None where it reads other values.
    count: the number of synapses, equal to the operations of a dense pass, without the synapses cut off at borders.
    analog: the number of synapses that the analog input passes, once.
    events: the synaptic operations at each step.
    active: the number of synapses of units that are not 0 after the last step.
    set_bits: the sum over these synapses of the number of bits that are 1 in the level of the unit.
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
        """Return the energy by network, in pJ; see `Cost.energy_pj`."""
        product, event = self.product_pj(energy), self.event_pj(energy)
        levels = self.bits is not None and self.weighted
        first = self.analog * product
        dense = max(0, self.count - self.analog)
        return {
            FULL_PRECISION: self.count * product,
            QANN: first + dense * (energy.add_pj * (self.bits or 1) if levels else product),
            SPARSE: first + (self.set_bits * energy.add_pj if levels else min(self.active, dense) * product),
            SNN: first + sum(self.events) * event,
        }

    def product_pj(self, energy: Energy) -> float:
        """Return the energy of one value at one synapse, in pJ."""
        return energy.multiply_add_pj if self.weighted else energy.add_pj

    def event_pj(self, energy: Energy) -> float:
        """Return the energy of one event from a neuron at one synapse, in pJ."""
        return energy.add_pj if self.bits is not None else self.product_pj(energy)


@dataclass(frozen=True)
class Units:
    """The neurons of a layer.

    layer: the path of the layer. count: the number of neurons. highest: the highest level n. charged: whether the input
    or biases are injected into the layer.
    """

    layer: str
    count: int
    highest: int
    charged: bool


@dataclass(frozen=True)
class Cost:
    """The cost of an inference, as an average over ``images`` images.

    charge_steps: D. synapses: one entry for each operator. units: one entry for each layer of neurons. activity: the
    spikes of each layer of neurons, summed over all images. uncounted: the operators that are not counted, such as
    products of two signals and scalings. energy: the energy of one operation.
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
        """The positive and the negative spikes per image."""
        positive, negative = (
            sum(sum(getattr(each, sign)) for each in self.activity) / self.images for sign in ("positive", "negative")
        )
        return positive, negative

    @property
    def operations(self) -> dict[str, float]:
        """The operations of the spiking network per image.

        ``synaptic``: additions of spikes. ``multiply-adds``: those of the analog input and of events whose size varies.
        ``injected``: additions of input and biases, one at each charge step for each neuron that receives them.
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
        """The energy of the arithmetic of four networks per image, in pJ.

        Memory and the work inside the neurons are not counted for any of the four. Full precision: one multiply-add per
        synapse. QANN: a product with a level of b bits is b additions of shifted weights. QANN, zeros skipped: only the
        additions for bits that are 1. SNN: one addition per synaptic operation, and one per injection. Analog values,
        and values that are not levels, are multiplied in all four.
        """
        each = [synapses.energy_pj(self.energy) for synapses in self.synapses]
        total = {name: sum(one[name] for one in each) for name in (FULL_PRECISION, QANN, SPARSE, SNN)}
        total[SNN] += self.operations["injected"] * self.energy.add_pj
        return total

    @property
    def analog_pj(self) -> float:
        """The energy of the analog input at the synapses that it passes, once per image, in pJ."""
        return sum(each.analog * each.product_pj(self.energy) for each in self.synapses)

    @property
    def spiking_pj(self) -> tuple[float, ...]:
        """The energy of the spiking network per image up to each step, in pJ; the last is the one in `energy_pj`."""
        charged = sum(each.count for each in self.units if each.charged) * self.energy.add_pj
        totals, total = [], self.analog_pj
        for step in range(len(self.activity[0].positive)):
            total += sum(each.events[step] * each.event_pj(self.energy) for each in self.synapses)
            total += charged if step < self.charge_steps else 0.0
            totals.append(total)
        return tuple(totals)

    @property
    def bits_sent(self) -> dict[str, float]:
        """The bits that all layers of neurons send per image.

        Full precision: 32 bits per activation. QANN: the bits of the level per activation. SNN, signs: one bit per
        spike. SNN, with addresses: one bit per spike and the address of its neuron, with as many bits as are needed to
        number the neurons of the layer.
        """
        spikes = {each.layer: (sum(each.positive) + sum(each.negative)) / self.images for each in self.activity}
        return {
            FULL_PRECISION: float(FLOAT_BITS * sum(each.count for each in self.units)),
            QANN: float(sum(each.count * each.highest.bit_length() for each in self.units)),
            "SNN, signs": sum(spikes.values()),
            "SNN, with addresses": sum(spikes[each.layer] * (1 + (each.count - 1).bit_length()) for each in self.units),
        }
