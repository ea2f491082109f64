"""A simulation of the network in network.npz with PyNN, on Brian 2: python run.py --help.

A PyNN neuron sends one kind of spikes, and the weights of a projection have one sign. So each population is a pair of
twins with the same potentials and counts: one twin sends the positive spikes, the other twin the negative spikes. The
synapses between two populations are eight projections: from each twin to each twin, excitatory and inhibitory. A spike
needs two time steps from a population to the next, one of which is the smallest delay in PyNN. So a population at depth
d begins 2 d steps after the input. Apart from this delay, every spike is sent at its step. The inputs are presented one
after the other in one run.
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
except (ImportError, AttributeError) as error:  # Brian 2.9 uses names that NumPy 2.4 has removed
    sys.exit(f"run.py needs PyNN and Brian 2: pip install pynn brian2 'numpy<2.4' ({error})")

STEP_MS = 1.0
HOP = 2
"""The steps from a population to the next: the delay, and one step until the arriving spikes change the potential."""

POSITIVE, NEGATIVE = "u >= threshold and sent < highest", "u < 0*volt and sent > 0 and negative > 0"
RISE, FALL = "u -= threshold; sent += 1", "u += threshold; sent -= 1"


class SignedIF(BaseCellType):
    """One twin of a population of signed integrate-and-fire neurons; see `Positive` and `Negative`."""

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
    rule: tuple[str, str]
    twin_rule: tuple[str, str]

    @classmethod
    def brian2_model(cls, size: int, equations: str, **parameters: Any) -> NeuronGroup:
        """Return Brian 2's neurons, which compute the spikes of the other twin as an additional event."""
        neurons = NeuronGroup(
            size,
            equations,
            threshold=f"awake(t) > 0 and {cls.rule[0]}",
            reset=cls.rule[1],
            events={"other": f"awake(t) > 0 and {cls.twin_rule[0]}"},
            clock=sim.simulator.state.network.clock,
        )
        neurons.run_on_event("other", cls.twin_rule[1], when="resets")
        neurons.threshold, neurons.initial = (parameters[name] * mV for name in ("threshold", "initial"))
        neurons.highest, neurons.negative = parameters["highest"], parameters["negative"]
        return neurons


class Positive(SignedIF):
    """The twin that sends the positive spikes."""

    rule, twin_rule = (POSITIVE, RISE), (NEGATIVE, FALL)


class Negative(SignedIF):
    """The twin that sends the negative spikes."""

    rule, twin_rule = (NEGATIVE, FALL), (POSITIVE, RISE)


def simulate(network: stored.Network, currents: dict[str, np.ndarray], steps: int) -> stored.Spikes:
    """Return the spikes of each population at the steps of each input; step 0 is the first step of the population."""
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
            whole = np.asarray(signal.magnitude)[1:]  # without the first row, the potential before the run
        first = HOP * each.depth
        sent[each.name] = whole.reshape(count, period, len(each))[:, first : first + steps].swapaxes(0, 1)
    sim.end()
    return sent


def populations(
    each: stored.Population, network: stored.Network, current: np.ndarray, steps: int
) -> list[sim.Population]:
    """Return the twins of a population; only one for an output."""
    first, period = HOP * each.depth, steps + HOP * network.depth
    charge, awake = np.zeros(period), np.zeros(period)
    charge[first : first + len(network.charge)] = network.charge
    awake[first : first + steps] = 1
    arrays = {
        "charge": TimedArray(np.tile(charge, len(current)), dt=STEP_MS * ms),
        "awake": TimedArray(np.tile(awake, len(current)), dt=STEP_MS * ms),
        "current": TimedArray(current * mV, dt=period * STEP_MS * ms),
    }
    pair = []
    for cell in (Positive, Negative)[: 1 + each.fires]:
        highest, threshold = min(each.highest, 1e9), np.minimum(each.threshold, 1e300)
        model = cell(threshold=threshold, initial=each.initial, highest=highest, negative=float(each.negative))
        twin = sim.Population(len(each), model, label=f"{each.name} {cell.__name__}")
        twin.initial_values["u"] = np.zeros(len(each))  # PyNN puts this value before the recorded values
        twin.brian2_group.namespace.update(arrays)
        reset, step = "u = initial; arrived = 0*volt; sent = 0", "u += charge(t) * current(t, i) + arrived"
        twin.brian2_group.run_regularly(reset, dt=period * STEP_MS * ms, when="start", order=1)
        twin.brian2_group.run_regularly(f"{step}; arrived = 0*volt", when="start", order=2)
        pair.append(twin)
    return pair


def project(each: stored.Synapses, twins: dict[str, list[sim.Population]], network: stored.Network) -> None:
    """Add the synapses from one population to another; a negative spike has the opposite effect of a positive one."""
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
