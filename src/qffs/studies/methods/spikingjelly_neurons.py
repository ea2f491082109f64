"""Layers of SpikingJelly's neurons, which can be trained; imported only if SpikingJelly is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from spikingjelly.activation_based.neuron import SimpleBaseNode
from torch import Tensor, nn

SMALLEST = 1e-3
"""The smallest threshold that training can reach."""


class Neurons(SimpleBaseNode):
    """Leaky integrate-and-fire neurons: currents of all steps ``[T * B, ...]`` to spikes times θ.

    ::

        u <- λ u + I / θ
        z  = 1 if u >= 1, else 0
        u <- 0 if z and reset == "zero", else u - z

    surrogate: the function from ``u - 1`` to z, which defines the gradient; detached: whether the reset has no
    gradient; trained: whether θ and λ are trained.
    """

    def __init__(
        self,
        steps: int,
        surrogate: Callable[[Tensor], Tensor],
        reset: Literal["subtract", "zero"] = "zero",
        decay: float = 1.0,
        detached: bool = False,
        trained: bool = False,
    ) -> None:
        super().__init__(1.0, 0.0 if reset == "zero" else None, surrogate, detach_reset=detached, step_mode="m")
        self.steps = steps
        self.threshold = nn.Parameter(torch.tensor(1.0), requires_grad=trained)
        self.λ = nn.Parameter(torch.tensor(float(decay)), requires_grad=trained)

    @property
    def height(self) -> float:
        """The value of θ."""
        return max(SMALLEST, float(self.threshold.detach()))

    @property
    def decay(self) -> float:
        """The value of λ, at least 0."""
        return max(0.0, float(self.λ.detach()))

    def neuronal_charge(self, x: Tensor) -> None:
        """Add the current of one step, in thresholds, to the potential."""
        self.v: Tensor = self.λ.clamp_min(0) * self.v + x

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of all steps times θ, from rest."""
        self.reset()
        θ = self.threshold.clamp_min(SMALLEST)
        spikes: Tensor = super().forward((x / θ).unflatten(0, (self.steps, -1)))
        self.reset()  # a potential that is part of an autograd graph cannot be copied
        return spikes.flatten(0, 1) * θ
