"""DIET-SNN: a trained network becomes a spiking one, which is then trained with its thresholds and leaks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.graph.fold import fold_batch_norms
from qffs.studies.methods.method import Activation, Method
from qffs.studies.methods.surrogate_gradient import EXTRA, Surrogate, neurons, spiking

ADAM = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0, "momentum": 0.9, "nesterov": False}
"""The values that differ from those of a recipe; momentum does not act on adamw, and has to be its default."""
STEPS, PERCENTILE, SCALE, DAMPENED = 5, 0.997, 0.7, 0.3


def triangle() -> Surrogate:
    """Return a spike function with the gradient ``0.3 max(0, 1 - |u - 1|)``, u in thresholds."""
    from spikingjelly.activation_based.surrogate import PiecewiseQuadratic

    full = PiecewiseQuadratic(alpha=1.0)

    def fire(x: Tensor) -> Tensor:
        spikes: Tensor = full(x)
        return DAMPENED * spikes + ((1 - DAMPENED) * spikes).detach()

    return fire


def _start(module: Any, x: Tensor) -> None:
    """Set θ to 0.7 times the 99.7th percentile of the currents x."""
    x = x.flatten()
    with torch.no_grad():
        module.threshold.fill_(SCALE * float(x.kthvalue(max(1, round(PERCENTILE * len(x)))).values))


def folded(network: fx.GraphModule) -> nn.Module:
    """Return a copy of the network whose batch norms are folded into the weights before them."""
    network = copy.deepcopy(network).eval()
    fold_batch_norms(network)
    return network


DIET = Method(
    "diet",
    "DIET-SNN",
    "Rathi, Roy, IEEE TNNLS 2021",
    "starts with thresholds above nearly all currents, and trains weights, thresholds and leaks",
    Activation(
        f"leaky neurons over {STEPS} steps",
        neurons(STEPS, triangle, reset="subtract", trained=True),
        _start,
        steps=STEPS,
        prepare=folded,
        training=ADAM,
        extra=EXTRA,
    ),
    spiking("subtract"),
    notes=f"trained over {STEPS} steps; batch norms are folded, biases stay; the loss is that of the mean output",
)
