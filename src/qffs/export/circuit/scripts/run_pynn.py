"""Simulates the network of network.npz with PyNN, on Brian 2: python run.py --help.

A PyNN neuron sends spikes of one kind, and the weights of a projection have one sign. So each population is a pair of
twins that go through the same potentials and counts, of which one sends the positive spikes and one the negative ones;
and the synapses between two populations are eight projections, from each twin to each twin, excitatory and inhibitory.
A spike takes two time steps from each population to the next, one of them the least delay that PyNN has, so that
population d begins 2 d steps after the input; apart from that, every spike is sent at its step. The inputs are shown
one after the other in one run.
"""

from __future__ import annotations

import sys
from typing import Any

import network as stored
import numpy as np

try:
    import brian2
    import pyNN.brian2 as sim
    from brian2 import NeuronGroup, TimedArray, ms, mV
    from pyNN.models import BaseCellType
except (ImportError, AttributeError) as error:  # Brian 2.9 asks NumPy for what 2.4 has no more
    sys.exit(f"run.py needs PyNN and Brian 2: pip install pynn brian2 'numpy<2.4' ({error})")

STEP_MS = 1.0
HOP = 2
"""Steps from a population to the next: the delay, and one until the potential takes in what has arrived."""

POSITIVE, NEGATIVE = "u >= threshold and sent < highest", "u < 0*volt and sent > 0 and negative > 0"
RISE, FALL = "u -= threshold; sent += 1", "u += threshold; sent -= 1"


class SignedIF(BaseCellType):
    """Signed integrate-and-fire neurons, one twin of them: `Positive` or `Negative` says whose spikes it sends."""

    default_parameters = {"threshold": 1.0, "initial": 0.0, "highest": 1.0, "negative": 1.0}
    default_initial_values: dict[str, float] = {}
    recordable = ["spikes", "u"]
    units = {"u": "mV"}
    receptor_types = ["excitatory", "inhibitory"]
    post_synaptic_variables = {"excitatory": "arrived", "inhibitory": "arrived"}
    conductance_based, voltage_based_synapses, injectable = False, True, False
    state_variable_translations = {"u": {"translated_name": "u", "reverse_transform": lambda u: u / mV}}
    eqs = """u : volt
        arrived : volt
        sent : 1
        threshold : volt (constant)
        initial : volt (constant)
        highest : 1 (constant)
        negative : 1 (constant)"""
    own: tuple[str, str]
    other: tuple[str, str]

    @classmethod
    def brian2_model(cls, size: int, equations: str, **parameters: Any) -> NeuronGroup:
        """Brian 2's neurons, which see the other twin's spikes as an event of their own."""
        made = NeuronGroup(
            size,
            equations,
            threshold=f"awake(t) > 0 and {cls.own[0]}",
            reset=cls.own[1],
            events={"other": f"awake(t) > 0 and {cls.other[0]}"},
            clock=sim.simulator.state.network.clock,
        )
        made.run_on_event("other", cls.other[1], when="resets")
        made.threshold, made.initial = (parameters[name] * mV for name in ("threshold", "initial"))
        made.highest, made.negative = parameters["highest"], parameters["negative"]
        return made


class Positive(SignedIF):
    """The twin that sends the positive spikes."""

    own, other = (POSITIVE, RISE), (NEGATIVE, FALL)


class Negative(SignedIF):
    """The twin that sends the negative spikes."""

    own, other = (NEGATIVE, FALL), (POSITIVE, RISE)


def simulate(network: stored.Network, currents: dict[str, np.ndarray], steps: int) -> stored.Spikes:
    """What every population sends in the steps of each input; its own first step is number 0."""
    brian2.prefs.codegen.target = "numpy"
    sim.setup(timestep=STEP_MS)
    count, period = len(next(iter(currents.values()))), steps + HOP * network.depth
    twins = {each.name: populations(each, network, currents[each.name], steps) for each in network.populations}
    for each in network.synapses:
        project(each, twins, network)
    for each in network.populations:
        for twin in twins[each.name]:
            twin.record("spikes" if each.fires else "u")
    sim.run(count * period * STEP_MS)
    sent = {}
    for each in network.populations:
        if each.fires:
            whole = np.zeros((count * period, len(each)), np.int8)
            for sign, twin in zip((1, -1), twins[each.name], strict=True):
                for unit, train in enumerate(twin.get_data("spikes").segments[-1].spiketrains):
                    whole[np.rint(train.rescale("ms").magnitude / STEP_MS).astype(int), unit] = sign
        else:
            (signal,) = twins[each.name][0].get_data("u").segments[-1].analogsignals
            whole = np.asarray(signal.magnitude)[1:]  # before them, the potential at the beginning
        first = HOP * each.depth
        sent[each.name] = whole.reshape(count, period, len(each))[:, first : first + steps].swapaxes(0, 1)
    sim.end()
    return sent


def populations(
    each: stored.Population, network: stored.Network, current: np.ndarray, steps: int
) -> list[sim.Population]:
    """The twins of a population; of an output, one."""
    first, period = HOP * each.depth, steps + HOP * network.depth
    charge, awake = np.zeros(period), np.zeros(period)
    charge[first : first + len(network.charge)] = network.charge
    awake[first : first + steps] = 1
    arrays = {
        "charge": TimedArray(np.tile(charge, len(current)), dt=STEP_MS * ms),
        "awake": TimedArray(np.tile(awake, len(current)), dt=STEP_MS * ms),
        "current": TimedArray(current * mV, dt=period * STEP_MS * ms),
    }
    made = []
    for cell in (Positive, Negative)[: 1 + each.fires]:
        highest, threshold = min(each.highest, 1e9), np.minimum(each.threshold, 1e300)
        model = cell(threshold=threshold, initial=each.initial, highest=highest, negative=float(each.negative))
        twin = sim.Population(len(each), model, label=f"{each.name} {cell.__name__}")
        twin.initial_values["u"] = np.zeros(len(each))  # which PyNN puts before what it records
        twin.brian2_group.namespace.update(arrays)
        again, step = "u = initial; arrived = 0*volt; sent = 0", "u += charge(t) * current(t, i) + arrived"
        twin.brian2_group.run_regularly(again, dt=period * STEP_MS * ms, when="start", order=1)
        twin.brian2_group.run_regularly(f"{step}; arrived = 0*volt", when="start", order=2)
        made.append(twin)
    return made


def project(each: stored.Synapses, twins: dict[str, list[sim.Population]], network: stored.Network) -> None:
    """The synapses from one population to another: a negative spike takes back what a positive one brought."""
    depths = {population.name: population.depth for population in network.populations}
    delay = (HOP * (depths[each.target] - depths[each.source]) - 1) * STEP_MS
    for sign, source in zip((1, -1), twins[each.source], strict=True):
        weight = sign * each.weight  # in mV
        for kind, chosen in (("excitatory", weight > 0), ("inhibitory", weight < 0)):
            pairs = list(zip(each.pre[chosen], each.post[chosen], weight[chosen], strict=True))
            for target in twins[each.target] if pairs else ():
                connector = sim.FromListConnector(pairs, column_names=["weight"])
                sim.Projection(source, target, connector, sim.StaticSynapse(delay=delay), receptor_type=kind)


if __name__ == "__main__":
    sys.exit(stored.main(simulate))
