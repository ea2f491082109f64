"""SNN calibration: thresholds with the least error at a latency, and potentials that make up for what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.baselines.balanced import RELU
from qffs.baselines.begun import Begun
from qffs.baselines.method import RATE, Batches, Method, rates
from qffs.functional.fire import NeuronState
from qffs.graph.place import activations
from qffs.network import SpikingNetwork
from qffs.nn.modes import evaluating
from qffs.simulate import Observer

BATCHES, IMAGES, GRID = 1, 64, 100


class Shifted(Begun):
    """A spiking network whose neurons begin higher, or lower, by channel: ``[1, C, ...]`` in the network's units."""

    def __init__(self, network: SpikingNetwork, shifts: Mapping[str, Tensor]) -> None:
        super().__init__(network.graph, network.schedule)
        self.shifts = dict(shifts)

    def begun(self, inputs: tuple[Tensor, ...], observer: Observer | None) -> dict[str, NeuronState]:
        """At rest, and shifted."""
        del inputs, observer
        found = {}
        for path, neuron in self.neurons():
            if path in self.shifts:
                rest = neuron.rest(self.shifts[path])
                found[path] = NeuronState(rest.potential + self.shifts[path], rest.sent)
        return found


def best(values: Tensor, steps: int) -> float:
    """θ with the least mean square error of ``θ clip(floor(x T / θ + 1/2) / T, 0, 1)``, of 100 up to the largest x.

    >>> best(torch.tensor([0.0, 1.0, 2.0, 4.0]), 4)
    4.0
    """
    largest = float(values.max())
    if largest <= 0:
        return 1e-6
    candidates = [largest * k / GRID for k in range(1, GRID + 1)]
    errors = [float((θ * (values * steps / θ + 0.5).floor().clamp(0, steps) / steps - values).square().mean())
              for θ in candidates]  # fmt: skip
    return candidates[errors.index(min(errors))]


@torch.no_grad()
def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
    """Thresholds, then layer by layer the mean gap to the network's activations as a potential, by channel."""
    given = [x[:IMAGES] for x in islice(batches, BATCHES)]
    wanted: dict[str, Tensor] = {}

    def observe(path: str, _: nn.Module, __: Any, out: Tensor) -> None:
        wanted[path] = out

    sites = activations(network)
    hooks = [network.get_submodule(path).register_forward_hook(partial(observe, path)) for path in sites]
    with evaluating(network):
        network(given[0])
    for hook in hooks:
        hook.remove()
    thresholds = {path: best(wanted[path], steps) for path in sites}
    snn = rates(network, thresholds, steps, replace(RATE, precharge=0.5))
    shifts: dict[str, Tensor] = {}
    for path in sites:
        shifts[path] = _gap(wanted[path], _sent(Shifted(snn, shifts), path, given[0], steps))
    return Shifted(snn, shifts)


def _sent(snn: SpikingNetwork, path: str, x: Tensor, steps: int) -> Tensor:
    """What a layer has sent in a run."""
    found: list[Tensor] = []
    θ = dict(snn.neurons())[path].threshold

    def observe(layer: str, spikes: Tensor, _: NeuronState) -> None:
        if layer == path:
            found.append(spikes.sum(0) * θ)

    snn.run(x, steps=steps, observer=observe)
    return found[0]


def _gap(wanted: Tensor, sent: Tensor) -> Tensor:
    """The mean difference, by channel where there are channels."""
    over = [d for d in range(wanted.dim()) if d != 1]
    return (wanted.to(sent) - sent).mean(over, keepdim=True)


CALIBRATION = Method(
    "calibration",
    "SNN calibration",
    "Li et al., ICML 2021",
    "thresholds with the least error at T, and the mean gap to the activations made up for, layer by layer",
    RELU,
    spiking,
    by_latency=True,
    notes=f"the gap of {IMAGES} images is a potential before the first step; weights are not calibrated",
)
