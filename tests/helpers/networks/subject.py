"""What a test needs to know of a network, and the one block that most of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.problems import randomize


@dataclass(frozen=True)
class Subject:
    """A network: how it is built, and what it takes.

    ``shapes`` of the inputs without batch; ``spiking``: whether it sends nothing but spikes, so that strict
    conversion takes it; ``tokens``: how many different ones there are where the inputs are integers, words or bytes;
    ``seed`` of the weights, one with which every layer fires.
    """

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((3, 16, 16),)
    spiking: bool = True
    tokens: int = 0
    seed: int = 0

    def model(self) -> nn.Module:
        """The network in float64 and eval mode, with random weights and batch norm statistics."""
        model = self.build()
        whole = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
        randomize(model, self.seed).load_state_dict(whole, strict=False)  # indices and masks are left as they were
        return model.double()

    def inputs(self, seed: int = 0, count: int = 2) -> tuple[Tensor, ...]:
        """A batch of every input."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [(count, *shape) for shape in self.shapes]
        if self.tokens:
            return tuple(torch.randint(self.tokens, shape, generator=generator) for shape in shapes)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def conv_norm_relu(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
