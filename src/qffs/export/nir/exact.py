"""Exact NIR graphs: signed neurons, which NIR does not have, composed of integrators, thresholds and scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import nir
import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.circuit.unit_response import UnitResponse
from qffs.export.nir.graph import ONE, Bundle, Graph, windows_of
from qffs.export.nir.linear_form import linear_form
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork

NEVER = 1e300
"""A threshold that no value reaches."""


class Exact(Graph):
    """A graph whose neurons are composed of integrators, thresholds and scales, with the same spikes as the network.

    Let ``I`` be an integrator, ``[x > a]`` a threshold, and u the potential minus the potential u_0 before the first
    step. Then::

        u = I(arriving - θ z of the step before),  Z = I(z of the step before)
        z = [-([-u > u_0 - θ] + [Z > n - 1/2]) > -1/2] - [[-u > u_0] + [Z > 1/2] > 3/2]

    The tests are of -u, because a threshold of NIR fires above its value, but not at it. Each bias is charged by an
    additional input ``NAME.charge``, whose value at step t is ``charge[t]``.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__(snn)
        self.populations: dict[str, tuple[str, str]] = {}
        """By layer of neurons: the nodes that send 1 for a positive spike and 1 for a negative spike."""
        self.charges: list[str] = []

    def composed(
        self, name: str, θ: Tensor, first: Tensor, highest: float, negative: bool, sources: Sequence[str]
    ) -> tuple[str, str, str]:
        """Add neurons with thresholds θ and the highest level ``highest``.

        first: the potential before the first step. negative: whether they send negative spikes. sources: the nodes that
        arrive. Returns three nodes: one sends 1 for a positive spike, one 1 for a negative spike, and one -1 for a
        negative spike.
        """
        shape, add = tuple(θ.shape), self.add

        def threshold(value: Tensor | float) -> nir.NIRNode:
            return nir.Threshold(threshold=torch.as_tensor(value, dtype=torch.float64).expand(shape).numpy().copy())

        def scale(value: Tensor | float) -> nir.NIRNode:
            return self.scale(torch.as_tensor(value, dtype=torch.float64), shape)

        u = add(f"{name}.u", nir.I(r=np.ones(shape)), *sources)
        down = add(f"{name}.u_negated", scale(-1.0), u)
        balance = add(f"{name}.count", nir.I(r=np.ones(shape)))
        below = add(f"{name}.below_threshold", threshold(first - θ), down)
        full = add(f"{name}.full", threshold(min(highest - 0.5, NEVER)), balance)
        hindered = add(f"{name}.hindered", scale(-1.0), below, full)
        positive = add(f"{name}.positive", threshold(-0.5), hindered)
        under = add(f"{name}.below_zero", threshold(first), down)
        some = add(f"{name}.some", threshold(0.5 if negative else NEVER), balance)
        negative_ = add(f"{name}.negative", threshold(1.5), under, some)
        inverted = add(f"{name}.taken_back", scale(-1.0), negative_)
        reset = add(f"{name}.reset", scale(-θ), positive, inverted)
        self.edges += [(reset, u), (positive, balance), (inverted, balance)]
        return positive, negative_, inverted

    def neuron(self, name: str, neuron: Neuron, bundle: Bundle, constant: Tensor) -> Bundle:
        """Add a layer of neurons, and return its signal: the spikes multiplied by θ."""
        shape = tuple(constant.shape)
        θ = neuron.threshold.expand((1, *shape))[0]
        sources = self.scaled(name, bundle, shape) + self._bias(name, constant)
        highest = neuron.highest if neuron.rule.cap else math.inf
        positive, negative, inverted = self.composed(
            name, θ, neuron.precharge * θ, highest, neuron.rule.negative_spikes, sources
        )
        self.populations[name] = (positive, negative)
        return {self.add(f"{name}.sent", self.scale(θ, shape), positive, inverted): ONE}

    def _bias(self, name: str, constant: Tensor) -> list[str]:
        shape = tuple(constant.shape)
        if not bool(constant.any()):
            return []
        charge = self.add(f"{name}.charge", nir.Input(input_type={"input": np.array(shape)}))
        self.charges.append(charge)
        return [self.add(f"{name}.bias", self.scale(constant, shape), charge)]

    def pool(self, node: fx.Node, bundle: Bundle) -> Bundle:
        """Add a max pooling, level by level, see `qffs.export.circuit.extract`, and return its signal."""
        (read,) = node.all_input_nodes
        (θ, highest), into, out = self.units[read], self.shape(read), self.shape(node)
        windows = windows_of(node, self.network)
        try:
            forms = linear_form(
                lambda x: UnitResponse(self.operations, (x,), {}).applied(node, x), into, windows, pools=True
            )
        except NotConvertible:
            raise self.without_form(node, "no convolution has its windows") from None
        counts = {source: factor / torch.where(θ > 0, θ, 1.0) for source, factor in bundle.items()}
        arriving = self.scaled(node.name, counts, into)
        one, pooled = torch.ones(into, dtype=torch.float64), torch.ones(out, dtype=torch.float64)
        sent: list[str] = []
        for level in range(1, highest + 1):
            name = f"{node.name}.level_{level}"
            positive, _, inverted = self.composed(name, one, one * (1.5 - level), 1, True, arriving)
            summed = self.joined(f"{name}.sum", (positive, inverted), into)
            for form in forms:
                summed, _ = self._form(form, f"{name}.{type(form).__name__.lower()}", summed, ONE)
            positive, _, inverted = self.composed(
                f"{node.name}.largest_{level}", pooled, 0.5 * pooled, 1, True, (summed,)
            )
            sent += [positive, inverted]
        largest, highest = self.units[node]
        return {self.add(f"{node.name}.sent", self.scale(largest, out), *sent): ONE}

    def joined(self, name: str, sources: Sequence[str], shape: tuple[int, ...]) -> str:
        """Add a node that is the sum of others, and return its name."""
        return self.add(name, self.scale(ONE, shape), *sources)

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle, constant: Tensor) -> str:
        """Add an output, which receives the increment of the read-out at each step, and return its name."""
        sources = self.scaled(name, bundle, shape) + self._bias(name, constant)
        return self.add(name, nir.Output(output_type={"output": np.array(shape)}), *sources)
