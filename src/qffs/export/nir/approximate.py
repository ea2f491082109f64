"""NIR graphs with NIR's own neurons, which other tools can run; their firing rates represent the activations."""

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
    """A graph with NIR's integrate-and-fire nodes as neurons, which any tool can run.

    The rate of a neuron represents its activation. The input and the biases are on at every step, and the read-out is a
    mean over time. The threshold is n θ, the highest activation, so a rate of 1 is the highest activation. These
    neurons have no pre-charge, no negative spikes and no cap. r: the value of the nodes' field ``r``.
    """

    def __init__(self, snn: SpikingNetwork, r: float) -> None:
        super().__init__(snn)
        self.r = r
        self.biased: dict[str, Tensor] = {}
        """The total of the biases that arrive at each node."""

    def refusal(self, node: fx.Node) -> str | None:
        """Return why a node has no form; max pooling has none, because it needs signed spikes."""
        largest = "rates have no maximum in NIR: nir-exact has one" if pools(node) else None
        return largest or super().refusal(node)

    def matrix(self, weight: Tensor) -> nir.NIRNode:
        """Return a matrix with a bias of 0, because some tools cannot read a matrix without a bias."""
        return nir.Affine(weight=weight.numpy().copy(), bias=np.zeros(len(weight)))

    def scale(self, factor: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
        """Return a factor as a matrix, or as a convolution with kernel size 1, because some tools cannot read a scale.

        Raises `NotConvertible` if the factor differs within a channel, or if the signal has over two dimensions.
        """
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
        """Return all nodes and edges; each bias is in a node with only one reader."""
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
        with_bias = [each for each in sources if hasattr(self.nodes[each], "bias") and readers[each] == 1]
        if not sources:
            raise NotConvertible(f"these have no form in NIR:\n{name}: nothing but a bias arrives there")
        if not with_bias:
            with_bias = [self.add(f"{name}_biased", self.scale(ONE, shape), sources[0])]
            self.edges[self.edges.index((sources[0], name))] = (with_bias[0], name)
        self.nodes[with_bias[0]].bias = by_channel[:, 0].numpy().copy()

    def neuron(self, name: str, neuron: Neuron, bundle: Bundle, constant: Tensor) -> Bundle:
        """Add a layer of neurons, and return its signal: the rate multiplied by n θ."""
        if not neuron.rule.cap:
            raise NotConvertible(f"these have no form in NIR:\n{name}: without a cap it has no highest rate")
        shape = tuple(constant.shape)
        highest = neuron.highest * neuron.threshold
        node = nir.IF(
            r=np.full(shape, self.r),
            v_threshold=highest.expand((1, *shape))[0].numpy().copy(),
            v_reset=np.zeros(shape),
        )
        name = self.add(name, node, *self.scaled(name, bundle, shape))
        self.biased[name] = constant
        return {name: highest}

    def output(self, name: str, shape: tuple[int, ...], bundle: Bundle, constant: Tensor) -> str:
        """Add an output, whose mean over time is the read-out, and return its name."""
        sources = self.scaled(name, bundle, shape)
        if len(sources) > 1:  # some tools do not add up the inputs of an output
            sources = [self.add(f"{name}_sum", self.scale(ONE, shape), *sources)]
        name = self.add(name, nir.Output(output_type={"output": np.array(shape)}), *sources)
        self.biased[name] = constant
        return name
