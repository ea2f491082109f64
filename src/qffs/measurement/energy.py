"""What an inference costs: synaptic operations, energy and bits sent, beside networks that do not spike.

A spike costs an addition at every synapse that leads from its neuron. What costs a multiply-add instead: every synapse
of the analog input, once an image, and every event whose size varies, behind an average, say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qffs.errors import InvalidArgument
from qffs.measurement.activity import Activity

MULTIPLY_ADD_PJ, ADD_PJ = 4.6, 0.9
"""Energy of a float32 multiply-add (3.7 for the product) and of an addition, at 45 nm, in pJ: Horowitz, ISSCC 2014."""
FLOAT_BITS = 32
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
        """Of a value at a synapse."""
        return energy.multiply_add_pj if self.weighted else energy.add_pj

    def event_pj(self, energy: Energy) -> float:
        """Of what neurons send at a synapse."""
        return energy.add_pj if self.bits is not None else self.product_pj(energy)


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
    def analog_pj(self) -> float:
        """Of the analog input at the synapses that it passes, once."""
        return sum(each.analog * each.product_pj(self.energy) for each in self.synapses)

    @property
    def spiking_pj(self) -> tuple[float, ...]:
        """Of the spiking network up to each step; the last one is that of `energy_pj`."""
        charged = sum(each.count for each in self.units if each.charged) * self.energy.add_pj
        found, total = [], self.analog_pj
        for step in range(len(self.activity[0].positive)):
            total += sum(each.events[step] * each.event_pj(self.energy) for each in self.synapses)
            total += charged if step < self.charge_steps else 0.0
            found.append(total)
        return tuple(found)

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
