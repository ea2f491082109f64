"""Quantisers out, neurons in."""

from __future__ import annotations

from torch import fx

from qffs.method import FiringRule
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def swap_neurons(network: fx.GraphModule, rule: FiringRule) -> None:
    """Replace every `Quantizer` that the graph calls by its `Neuron`, at the same path, in place."""
    for node in network.graph.find_nodes(op="call_module"):
        module = network.get_submodule(str(node.target))
        if isinstance(module, Quantizer):
            network.set_submodule(str(node.target), Neuron.from_quantizer(module, rule, node.meta["shape"]))
