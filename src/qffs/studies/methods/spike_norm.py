"""Spike-Norm and RMP: the spiking network is run to set its thresholds, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from qffs.graph.call import signals
from qffs.graph.replace import activations
from qffs.graph.site import Kind, site
from qffs.method import FiringRule
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import Reference
from qffs.spiking.walk import walk
from qffs.studies.methods.method import RATE, RELU, SOME, Batches, Method, rates, some

BALANCED_STEPS = 64


@torch.no_grad()
def balanced(network: fx.GraphModule, batches: Batches, rule: FiringRule) -> dict[str, float]:
    """Return for each activation the largest current of one step, after the layers before it got their thresholds.

    Currents are in the units of activations, in which a spike is θ, and are those of some images of the first batch.
    """
    snn = rates(network, dict.fromkeys(activations(network), 1.0), BALANCED_STEPS, rule)
    x = some(batches, BALANCED_STEPS)
    thresholds = {path: neuron.threshold for path, neuron in snn.neurons()}
    walked = Reference(snn.operations, snn.initial_state(x), snn.schedule.weights)

    def balance(node: fx.Node) -> None:
        """Set the threshold of a layer before the layer is run."""
        if site(node).kind is Kind.SPIKING:
            thresholds[str(node.target)].fill_(max(1e-6, _largest(walked, *signals(node))))

    walk(snn.operations, (x,), walked, before=balance)
    return {path: float(neuron.threshold) * BALANCED_STEPS for path, neuron in snn.neurons()}


def _largest(walked: Reference, read: fx.Node) -> float:
    """Return the largest current that a signal brings in one step."""
    constant, increments = walked.arrived(read)
    injected = [0.0 if constant is None else weight * constant for weight in walked.charge]
    sent = [0.0] * walked.steps if increments is None else list(increments)
    return max(float(torch.as_tensor(one + other).max()) for one, other in zip(injected, sent, strict=True))


def _spiking(rule: FiringRule, β: float) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
        thresholds = balanced(network, batches, HARD)
        return rates(network, {path: β * θ for path, θ in thresholds.items()}, steps, rule)

    return spiking


HARD = replace(RATE, reset="zero")
NOTES = f"analog input instead of Poisson spikes; thresholds from {BALANCED_STEPS} steps of at most {SOME} images"

SPIKE_NORM = Method(
    "spike-norm",
    "Spike-Norm",
    "Sengupta et al., Frontiers in Neuroscience 2019",
    "the threshold is the largest current that ever arrives, layer by layer; a spike resets to zero",
    RELU,
    _spiking(HARD, 1.0),
    notes=NOTES,
)
RMP = Method(
    "rmp",
    "RMP",
    "Han, Srinivasan, Roy, CVPR 2020",
    "Spike-Norm's thresholds times 0.8; a spike subtracts the threshold",
    RELU,
    _spiking(RATE, 0.8),
    notes=NOTES,
)
