"""Spike-Norm and RMP: thresholds found by running the spiking network, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, fx, nn

from qffs.baselines.method import RATE, Activation, Batches, Method, rates
from qffs.functional.fire import NeuronState
from qffs.graph.place import activations
from qffs.levels import FiringRule
from qffs.network import SpikingNetwork

BALANCED_STEPS, BATCHES = 64, 1
NEVER = 1e30


@torch.no_grad()
def balanced(network: fx.GraphModule, batches: Batches, rule: FiringRule, β: float = 1.0) -> dict[str, float]:
    """By activation, the largest current that arrives in one step, those before it with their thresholds, times β.

    In the units of activations: of a spike that stands for θ. Layer by layer, while none after it fires.
    """
    thresholds = dict.fromkeys(activations(network), NEVER)
    given = list(islice(batches, BATCHES))
    for path in thresholds:
        snn = rates(network, thresholds, BALANCED_STEPS, rule)
        largest = max(1e-6, *(_largest(snn, path, x) for x in given))
        thresholds[path] = largest * β * BALANCED_STEPS
    return thresholds


def _largest(snn: SpikingNetwork, path: str, x: Tensor) -> float:
    """The largest current of a layer that never fires: how much its potential rises at a step."""
    before: list[Tensor] = []
    found: list[float] = [0.0]

    def observe(layer: str, _: Tensor, state: NeuronState) -> None:
        if layer == path:
            now = state.potential
            found.append(float((now - before.pop() if before else now).max()))
            before.append(now)

    snn.run(x, steps=BALANCED_STEPS, chunk=1, observer=observe)
    return max(found)


def _spiking(rule: FiringRule, β: float) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    return lambda network, batches, steps: rates(network, balanced(network, batches, rule, β), steps, rule)


RELU = Activation("ReLU", lambda clip: nn.ReLU() if clip is None else nn.Hardtanh(0.0, clip))
HARD = replace(RATE, to_zero=True)
NOTES = f"analog input instead of Poisson spikes; {BALANCED_STEPS} steps of one batch find each threshold"

SPIKE_NORM = Method(
    "spike-norm",
    "Spike-Norm",
    "Sengupta et al., Frontiers in Neuroscience 2019",
    "the largest current that ever arrives is the threshold, layer by layer; a spike sets the potential to zero",
    RELU,
    _spiking(HARD, 1.0),
    notes=NOTES,
)
RMP = Method(
    "rmp",
    "RMP",
    "Han, Srinivasan, Roy, CVPR 2020",
    "Spike-Norm's thresholds times 0.8; a spike takes the threshold off",
    RELU,
    _spiking(RATE, 0.8),
    notes=NOTES,
)
