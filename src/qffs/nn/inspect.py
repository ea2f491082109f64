"""Questions about a whole network: its type and device, its quantizers, its mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def empty_like(network: nn.Module) -> Tensor:
    """Return an empty tensor of the type and on the device in which a network computes.

    They are those of its step sizes or thresholds, or of its first weight where a network has none of these. Constants
    tell nothing: ``x + 0.25`` holds a float64 in a network of any type.

    >>> empty_like(nn.Linear(2, 1).double()).dtype
    torch.float64
    """
    steps = (m.step_size if isinstance(m, Quantizer) else m.threshold for m in network.modules()
             if isinstance(m, Quantizer | Neuron))  # fmt: skip
    floating = (x for x in chain(steps, network.parameters(), network.buffers()) if x.is_floating_point())
    return next(floating, torch.zeros(())).detach().new_empty(0)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and at the end each of its submodules back in the mode that it was in.

    >>> layer = nn.Dropout()
    >>> with evaluating(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def quantizers(network: nn.Module) -> dict[str, Quantizer]:
    """Return the quantizers of a network by their paths, in the order of its modules."""
    return {path: module for path, module in network.named_modules() if isinstance(module, Quantizer)}
