"""DIET-SNN: the network itself, made to spike, and trained as one with its thresholds and leaks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from qffs.baselines.direct import EXTRA, Surrogate, neurons, spiking
from qffs.baselines.method import Activation, Method

STEPS, PERCENTILE, SCALE, DAMPENED = 5, 0.997, 0.7, 0.3


def triangle() -> Surrogate:
    """``0.3 max(0, 1 - |u - 1|)`` as the gradient of a spike, u in thresholds."""
    from spikingjelly.activation_based.surrogate import PiecewiseQuadratic

    full = PiecewiseQuadratic(alpha=1.0)

    def fire(x: Tensor) -> Tensor:
        spikes: Tensor = full(x)
        return DAMPENED * spikes + ((1 - DAMPENED) * spikes).detach()

    return fire


def _start(module: Any, x: Tensor) -> None:
    """θ is a share of the 99.7th percentile of what arrives."""
    x = x.flatten()
    with torch.no_grad():
        module.threshold.fill_(SCALE * float(x.kthvalue(max(1, round(PERCENTILE * len(x)))).values))


def folded(network: fx.GraphModule) -> nn.Module:
    """The network with batch norms in the weights of the convolutions before them, where nothing else reads those."""
    network = copy.deepcopy(network).eval()
    modules = dict(network.named_modules())
    for node in list(network.graph.find_nodes(op="call_module")):
        source, norm = node.args[0], modules[str(node.target)]
        weights = modules.get(str(source.target)) if source.op == "call_module" and len(source.users) == 1 else None
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and isinstance(weights, nn.modules.conv._ConvNd):
            network.set_submodule(str(source.target), fuse_conv_bn_eval(weights, norm))
            node.replace_all_uses_with(source)
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


DIET = Method(
    "diet",
    "DIET-SNN",
    "Rathi, Roy, IEEE TNNLS 2021",
    "starts from the network with thresholds of nearly all currents, and trains weights, thresholds and leaks",
    Activation(
        f"leaky neurons over {STEPS} steps",
        neurons(STEPS, triangle, to_zero=False, trained=True),
        _start,
        steps=STEPS,
        before=folded,
        training={"optimiser": "adamw", "learning_rate": 1e-4},
        extra=EXTRA,
    ),
    spiking(to_zero=False),
    notes=f"trained over {STEPS} steps; batch norms are folded, biases stay; the loss is of the mean over the steps",
)
