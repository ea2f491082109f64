"""Neurons as other tools can run them: NIR's own, whose rates stand for activations."""

from __future__ import annotations

from collections import Counter

import nir
import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import NotConvertible
from qffs.export.circuit.unit_response import pools
from qffs.export.nir.graph import ONE, Bundle, Graph, convolution
from qffs.export.nir.linear_form import Convolution
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork


class Rates(Graph):
    """Neurons as NIR's integrate-and-fire nodes, which any tool can run: rates stand for activations.

    The input and the biases stay on, the read-out is a mean over time. A neuron has the threshold n θ, which is what it
    sends at the most, and so its rate is what it rounds: without a potential before the first step, without spikes
    that take others back, without a cap.
    """

    def __init__(self, snn: SpikingNetwork, r: float) -> None:
        super().__init__(snn)
        self.r = r
        self.biased: dict[str, Tensor] = {}
        """What arrives of biases, by node."""

    def refusal(self, node: fx.Node) -> str | None:
        """Max pooling needs signed spikes."""
        largest = "rates have no maximum in NIR: nir-exact has one" if pools(node) else None
        return largest or super().refusal(node)

    def matrix(self, weight: Tensor) -> nir.NIRNode:
        """Not every tool reads a matrix without a bias."""
        return nir.Affine(weight=weight.numpy().copy(), bias=np.zeros(len(weight)))

    def scale(self, factor: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
        """Not every tool reads a scale: a convolution by single places, or a matrix, of one dimension."""
        if len(shape) == 1:
            return self.matrix(torch.diag(factor.expand(shape)))
        if len(shape) > 3:
            raise NotConvertible(f"these have no form in NIR:\na factor in {len(shape) - 1} dimensions")
        channels = factor.expand(shape).flatten(1)
        if not bool((channels == channels[:, :1]).all()):
            raise NotConvertible("these have no form in NIR:\na factor that differs from place to place")
        one, none = (1,) * (len(shape) - 1), (0,) * (len(shape) - 1)
        weight = torch.diag(channels[:, 0]).reshape(shape[0], shape[0], *one)
        return convolution(Convolution(weight, one, none, one, shape[1:]), weight)

    def build(self) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
        """All nodes and edges, with each bias in a node that nothing else reads."""
        super().build()
        for name, constant in self.biased.items():
            if name in self.nodes and bool(constant.any()):
                self._bias(name, constant)
        return self.nodes, self.edges

    def _bias(self, name: str, constant: Tensor) -> None:
        shape = tuple(constant.shape)
        by_channel = constant.flatten(1) if len(shape) > 1 else constant[:, None]
        if not torch.allclose(by_channel, by_channel[:, :1].expand_as(by_channel), rtol=1e-12, atol=1e-12):
            raise NotConvertible(f"these have no form in NIR:\n{name}: its bias differs from place to place")
        sources = [source for source, target in self.edges if target == name]
        readers = Counter(source for source, _ in self.edges)
        own = [each for each in sources if hasattr(self.nodes[each], "bias") and readers[each] == 1]
        if not sources:
            raise NotConvertible(f"these have no form in NIR:\n{name}: nothing but a bias arrives there")
        if not own:
            own = [self.add(f"{name}_biased", self.scale(ONE, shape), sources[0])]
            self.edges[self.edges.index((sources[0], name))] = (own[0], name)
        self.nodes[own[0]].bias = by_channel[:, 0].numpy().copy()

    def neuron(self, name: str, neuron: Neuron, bundle: Bundle, constant: Tensor) -> Bundle:
        """A layer of neurons: rate times n θ."""
        if not neuron.rule.cap:
            raise NotConvertible(f"these have no form in NIR:\n{name}: without a cap it has no highest rate")
        shape = tuple(constant.shape)
        highest = neuron.highest * neuron.threshold
        made = nir.IF(
            r=np.full(shape, self.r),
            v_threshold=highest.expand((1, *shape))[0].numpy().copy(),
            v_reset=np.zeros(shape),
        )
        name = self.add(name, made, *self.scaled(name, bundle, shape))
        self.biased[name] = constant
        return {name: highest}

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle, constant: Tensor) -> str:
        """What is read out, on average."""
        sources = self.scaled(name, bundle, shape)
        if len(sources) > 1:  # not every tool adds up what an output reads
            sources = [self.add(f"{name}_sum", self.scale(ONE, shape), *sources)]
        name = self.add(name, nir.Output(output_type={"output": np.array(shape)}), *sources)
        self.biased[name] = constant
        return name
