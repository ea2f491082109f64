"""RNL and RIL: activations clipped at a share of the largest, and one share for all found again, for fewer steps."""

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
"""p before the training of the weights, which does not change it, and before that of p alone."""


class RateNorm(nn.Module):
    """``clip(x, 0, v)``, ``v = sigmoid(p) m``, with m the running maximum of x in training.

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
        """V."""
        return self.p.sigmoid() * self.largest

    def forward(self, x: Tensor) -> Tensor:
        """The clipped activation."""
        clipped = torch.minimum(torch.relu(x), self.height)
        if self.training:
            self.largest.lerp_(x.detach().max().to(self.largest).clamp(1e-6, self.clip), 0.1)
        return clipped


def _start(module: nn.Module, x: Tensor) -> None:
    assert isinstance(module, RateNorm)
    module.largest.fill_(x.max().clamp(1e-6, module.clip))


def inferred(network: fx.GraphModule, batches: Batches) -> fx.GraphModule:
    """RIL: the network with one p for all activations, trained alone on some images.

    The loss is ``1 - cos(logits, those of before) + 0.1 mean over layers of sum(a) / (sum(a²) + 1e-5)``, a the
    activations over v: it is small where they are near 0 or 1, which few steps can tell apart.
    """
    x = next(iter(batches))[:IMAGES]
    with torch.no_grad(), evaluating(network):
        wanted = network(x)
    found = copy.deepcopy(network).requires_grad_(False).eval()
    p = nn.Parameter(torch.full_like(next(found.parameters()).flatten()[0], SECOND))
    terms: list[Tensor] = []

    def observe(module: RateNorm, _: Any, out: Tensor) -> None:
        a = out / module.height
        terms.append(a.sum() / (a.square().sum() + 1e-5))

    hooks = []
    for path in activations(found):
        module = found.get_submodule(path)
        assert isinstance(module, RateNorm)
        module.p = p
        hooks.append(module.register_forward_hook(observe))
    optimizer = torch.optim.Adam([p], LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(PASSES):
            terms.clear()
            loss = 1 - F.cosine_similarity(found(x), wanted).mean() + WEIGHT * torch.stack(terms).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for hook in hooks:
        hook.remove()
    return found.requires_grad_(False)


def spiking(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
    """θ = v."""
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
