"""SEW-ResNet: a residual block adds spikes after its neurons, instead of currents before them."""

from __future__ import annotations

import copy

from torch import fx, nn

from qffs.graph.call import signals
from qffs.graph.paths import free_path
from qffs.graph.rules import name_of
from qffs.graph.site import KEY, Kind, site
from qffs.studies.methods.method import Activation, Method
from qffs.studies.methods.surrogate_gradient import EXTRA, Surrogate, deviation, neurons, spiking

STEPS = 4


def sigmoid() -> Surrogate:
    """Return a spike function with the derivative of ``sigmoid(4 (u - θ))`` as its gradient."""
    from spikingjelly.activation_based.surrogate import Sigmoid

    surrogate: Surrogate = Sigmoid(alpha=4.0)
    return surrogate


def element_wise(network: fx.GraphModule) -> nn.Module:
    """Return a copy of the network with ``relu(a) + relu(b)`` for every ``relu(a + b)``.

    An operand that is already the output of a ReLU gets no second ReLU.
    """
    network = copy.deepcopy(network)
    spikes: set[fx.Node] = set()
    for node in list(network.graph.nodes):
        read = signals(node)
        if site(node).kind is Kind.SPIKING:
            spikes.add(node)
            (total,) = read
            if _adds_two(total) and list(total.users) == [node]:
                _swap(network, node, total, spikes)
        elif read and site(node).kind is Kind.LINEAR and all(n in spikes for n in read) and not _weighs(network, node):
            spikes.add(node)
    network.graph.lint()
    network.recompile()
    return network


def _adds_two(node: fx.Node) -> bool:
    """Return whether a node is the sum of two different signals."""
    return name_of(node) == "add" and not node.kwargs and len(set(signals(node))) == len(node.args) == 2


def _swap(network: fx.GraphModule, relu: fx.Node, total: fx.Node, spikes: set[fx.Node]) -> None:
    """Remove the ReLU after a sum, and give each operand that is no spikes a ReLU before the sum."""
    for operand in signals(total):
        if operand in spikes:
            continue
        path = free_path(network, "relu")
        network.add_submodule(path, nn.ReLU())
        with network.graph.inserting_before(total):
            new = network.graph.call_module(path, (operand,))
        new.meta[KEY] = site(operand)
        total.replace_input_with(operand, new)
    relu.replace_all_uses_with(total)
    network.graph.erase_node(relu)
    network.delete_submodule(str(relu.target))
    spikes.add(total)


def _weighs(network: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node multiplies by weights, which may be negative."""
    if node.op == "call_module":
        return any(True for _ in network.get_submodule(str(node.target)).parameters())
    return any(read.op == "get_attr" for read in node.all_input_nodes)


SEW = Method(
    "sew",
    "SEW",
    "Fang et al., NeurIPS 2021",
    "trains neurons with reset, and adds the spikes of residual blocks behind them",
    Activation(
        f"neurons over {STEPS} steps, spikes added",
        neurons(STEPS, sigmoid, detached=True),
        deviation,
        steps=STEPS,
        prepare=element_wise,
        extra=EXTRA,
    ),
    spiking("zero"),
    notes=f"trained over {STEPS} steps from the network in full precision, whose blocks add before their ReLU; "
    "thresholds are the standard deviation of the first inputs",
)
