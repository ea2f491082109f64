"""RNL and RIL: activations are clipped at a share of the largest; then one share for all layers is trained again."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.graph.replace import activations
from qffs.nn.inspect import evaluating
from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import Activation, Batches, Method, rates

PASSES, IMAGES, LEARNING_RATE, WEIGHT = 50, 64, 0.1, 0.1
FIRST, SECOND = 10.0, 4.0
"""The value of p while the weights are trained, and its first value when p alone is trained."""


class RateNorm(nn.Module):
    """The function ``clip(x, 0, v)`` with ``v = sigmoid(p) m``; m is the running maximum of x in training.

    >>> norm = RateNorm()
    >>> norm(torch.tensor([1.0, 4.0])).tolist(), float(norm.largest)
    ([0.9999545812606812, 0.9999545812606812], 1.2999999523162842)
    """

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.p = nn.Parameter(torch.tensor(FIRST), requires_grad=False)
        self.largest: Tensor
        self.register_buffer("largest", torch.tensor(1.0))

    @property
    def height(self) -> Tensor:
        """The height v."""
        return self.p.sigmoid() * self.largest

    def forward(self, x: Tensor) -> Tensor:
        """Return the clipped activation; in train mode, update the running maximum."""
        clipped = torch.minimum(torch.relu(x), self.height)
        if self.training:
            self.largest.lerp_(x.detach().max().to(self.largest).clamp(1e-6, self.clip), 0.1)
        return clipped


def _start(module: nn.Module, x: Tensor) -> None:
    assert isinstance(module, RateNorm)
    module.largest.fill_(x.max().clamp(1e-6, module.clip))


def inferred(network: fx.GraphModule, batches: Batches) -> fx.GraphModule:
    """Return the network with one p for all activations, which alone is trained on some images (RIL).

    The loss is ``1 - cos(logits, logits before) + 0.1 mean over layers of sum(a) / (sum(a²) + 1e-5)``, where a are the
    activations divided by v. The second term is small if they are near 0 or 1, which few steps can tell apart.
    """
    x = next(iter(batches))[:IMAGES]
    with torch.no_grad(), evaluating(network):
        target = network(x)
    result = copy.deepcopy(network).requires_grad_(False).eval()
    p = nn.Parameter(torch.full_like(next(result.parameters()).flatten()[0], SECOND))
    terms: list[Tensor] = []

    def observe(module: RateNorm, _: Any, out: Tensor) -> None:
        a = out / module.height
        terms.append(a.sum() / (a.square().sum() + 1e-5))

    hooks = []
    for path in activations(result):
        module = result.get_submodule(path)
        assert isinstance(module, RateNorm)
        module.p = p
        hooks.append(module.register_forward_hook(observe))
    optimizer = torch.optim.Adam([p], LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(PASSES):
            terms.clear()
            loss = 1 - F.cosine_similarity(result(x), target).mean() + WEIGHT * torch.stack(terms).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for hook in hooks:
        hook.remove()
    return result.requires_grad_(False)


def spiking(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
    """Return the spiking network with θ = v."""
    modules: dict[str, Any] = {path: network.get_submodule(path) for path in activations(network)}
    return rates(network, {path: float(module.height) for path, module in modules.items()}, steps)


RNL = Method(
    "rnl",
    "RNL+RIL",
    "Ding et al., IJCAI 2021",
    "clips at the running maximum, then trains one factor of all clips, for few steps",
    Activation("clip at the running maximum", RateNorm, _start, finish=inferred),
    spiking,
    notes=f"the second training is {PASSES} passes over {IMAGES} images, and activations are not divided by v",
)
