"""Quantisers out, neurons in."""

from __future__ import annotations

from torch import fx

from qffs.levels import FiringRule
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def swap_neurons(network: fx.GraphModule, rule: FiringRule) -> None:
    """Replace every `Quantizer` by its `Neuron`, at the same path, in place."""
    for path, module in list(network.named_modules()):
        if isinstance(module, Quantizer):
            network.set_submodule(path, Neuron.from_quantizer(module, rule))
