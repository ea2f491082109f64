"""A simulation of the network in network.npz with Brian 2: python run.py --help.

A population is a group of neurons whose positive and negative spikes are two events, and a synapse has two pathways. A
spike needs one time step from a population to the next, so a population at depth d begins d steps after the input.
Apart from this delay, every spike is sent at its step. The inputs are presented one after the other in one run.
"""

from __future__ import annotations

import sys

import network as stored
import numpy as np

try:
    import brian2
    from brian2 import EventMonitor, Network, NeuronGroup, StateMonitor, Synapses, TimedArray, ms
except (ImportError, AttributeError) as error:  # Brian 2.9 uses names that NumPy 2.4 has removed
    sys.exit(f"run.py needs Brian 2: pip install brian2 'numpy<2.4' ({error})")

STEP = 1 * ms


def simulate(network: stored.Network, currents: dict[str, np.ndarray], steps: int) -> stored.Spikes:
    """Return the spikes of each population at the steps of each input; step 0 is the first step of the population."""
    brian2.prefs.codegen.target = "numpy"
    count, period = len(next(iter(currents.values()))), steps + network.depth
    groups = {each.name: group(each, network, currents[each.name], steps) for each in network.populations}
    paths = [synapses(each, groups, network) for each in network.synapses]
    events = {each.name: [EventMonitor(groups[each.name], sign) for sign in ("positive", "negative")]
              for each in network.populations if each.fires}  # fmt: skip
    potentials = {each.name: StateMonitor(groups[each.name], "u", record=True, when="end", dt=STEP)
                  for each in network.populations if not each.fires}  # fmt: skip
    monitors = [each for pair in events.values() for each in pair] + list(potentials.values())
    Network(*groups.values(), *paths, *monitors).run(count * period * STEP)
    sent = {}
    for each in network.populations:
        if each.fires:
            whole = np.zeros((count * period, len(each)), np.int8)
            for sign, monitor in zip((1, -1), events[each.name], strict=True):
                whole[np.rint(monitor.t / STEP).astype(int), monitor.i] = sign
        else:
            whole = np.asarray(potentials[each.name].u).T
        active = whole.reshape(count, period, len(each))[:, each.depth : each.depth + steps]
        sent[each.name] = active.swapaxes(0, 1)
    return sent


def group(each: stored.Population, network: stored.Network, current: np.ndarray, steps: int) -> NeuronGroup:
    """Return the neurons of a population."""
    period = steps + network.depth
    charge, awake = np.zeros(period), np.zeros(period)
    charge[each.depth : each.depth + len(network.charge)] = network.charge
    awake[each.depth : each.depth + steps] = 1
    neurons = NeuronGroup(
        len(each),
        """u : 1
        arrived : 1
        sent : 1
        threshold : 1 (constant)
        initial : 1 (constant)""",
        events={
            "positive": f"awake(t) > 0 and u >= threshold and sent < {min(each.highest, 1e9)}",
            "negative": f"awake(t) > 0 and u < 0 and sent > 0 and {each.negative}",
        },
        namespace={
            "charge": TimedArray(np.tile(charge, len(current)), dt=STEP),
            "awake": TimedArray(np.tile(awake, len(current)), dt=STEP),
            "current": TimedArray(current, dt=period * STEP),
        },
        dt=STEP,
    )
    neurons.threshold, neurons.initial = np.minimum(each.threshold, 1e300), each.initial
    neurons.run_regularly("u = initial; arrived = 0; sent = 0", dt=period * STEP, when="start", order=0)
    neurons.run_regularly("u += charge(t) * current(t, i) + arrived; arrived = 0", dt=STEP, when="start", order=1)
    neurons.run_on_event("positive", "u -= threshold; sent += 1", when="resets")
    neurons.run_on_event("negative", "u += threshold; sent -= 1", when="resets")
    return neurons


def synapses(each: stored.Synapses, groups: dict[str, NeuronGroup], network: stored.Network) -> Synapses:
    """Return the synapses from one population to another; a negative spike does the opposite of a positive one."""
    depths = {population.name: population.depth for population in network.populations}
    connections = Synapses(
        groups[each.source],
        groups[each.target],
        "weight : 1 (constant)",
        on_pre={"positive": "arrived_post += weight", "negative": "arrived_post -= weight"},
        on_event={"positive": "positive", "negative": "negative"},
        delay=dict.fromkeys(("positive", "negative"), (depths[each.target] - depths[each.source] - 1) * STEP),
        dt=STEP,
    )
    connections.connect(i=each.pre, j=each.post)
    connections.weight = each.weight
    return connections


if __name__ == "__main__":
    sys.exit(stored.main(simulate))
