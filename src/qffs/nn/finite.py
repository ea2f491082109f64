"""The tensors of a network that hold NaN or infinity where they must not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qffs.errors import Diverged
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def broken(network: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> list[str]:
    """Return the names of the tensors with NaN or infinity, in the order of the network.

    tensors: tensors that are to replace those of the network; by default its own. A buffer, such as a mask, may hold
    infinity, but the statistics of batch norm and thresholds may not. A step size that is not set is NaN.

    >>> layer = nn.Linear(2, 1)
    >>> nn.init.constant_(layer.bias, torch.inf)
    Parameter containing:
    tensor([inf], requires_grad=True)
    >>> broken(layer)
    ['bias']
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    finite, unset = set(parameters), set()
    for path, module in network.named_modules(remove_duplicate=False):
        inner = f"{path}." if path else ""
        if isinstance(module, Quantizer):
            unset.add(f"{inner}step_size")
        if isinstance(module, Neuron):
            finite.add(f"{inner}threshold")
        if isinstance(module, _BatchNorm):
            finite |= {f"{inner}running_mean", f"{inner}running_var"}
    own = {**parameters, **dict(network.named_buffers(remove_duplicate=False))}

    def sound(name: str, tensor: Tensor) -> bool:
        lowest, highest = _ends(tensor)
        good = not math.isnan(lowest) if name not in finite else math.isfinite(lowest) and math.isfinite(highest)
        return good or (name in unset and bool(tensor.isnan().all()))

    return [name for name, tensor in (own if tensors is None else tensors).items() if not sound(name, tensor)]


def _ends(tensor: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest number of a tensor, both NaN if it holds NaN; a copy would need memory."""
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not numbers.numel() or not numbers.is_floating_point():
        return 0.0, 0.0
    if numbers.element_size() == 1:  # PyTorch does not compare numbers of one byte
        numbers = numbers.float()
    lowest, highest = numbers.detach().aminmax()
    return lowest.item(), highest.item()


def check_finite(network: nn.Module) -> None:
    """Raise `Diverged`, with the name of the first tensor, where a network holds NaN or infinity (see `broken`)."""
    names = broken(network)
    if names:
        raise Diverged(
            f"the weights hold NaN or infinity, first in {names[0]}: train again, or load the last good ones"
        )
