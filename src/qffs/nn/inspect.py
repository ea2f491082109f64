"""Questions about a whole network: its type and device, its quantizers, its mode, its broken weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qffs.errors import Diverged, InvalidArgument
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


def digest(network: nn.Module) -> str:
    """Return a hash of all tensors of a network by name, and of the code of a graph."""
    hashed = hashlib.sha256(str(getattr(network, "code", "")).encode())
    for name, tensor in network.state_dict().items():
        hashed.update(name.encode() + str(tensor.dtype).encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


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


@contextmanager
def without_autocast() -> Iterator[None]:
    """Turn `torch.autocast` off: it would round values in other places than the code of this library expects.

    >>> with torch.autocast("cpu"), without_autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    with ExitStack() as off:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                off.enter_context(torch.autocast(device, enabled=False))
        yield


def autocast_type(device: str) -> torch.dtype | None:
    """Return the type of `torch.autocast` on a type of device; None where it is off.

    >>> with torch.autocast("cpu"):
    ...     autocast_type("cpu")
    torch.bfloat16
    """
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def quantizers(network: nn.Module) -> dict[str, Quantizer]:
    """Return the quantizers of a network by their paths, in the order of its modules."""
    return {path: module for path, module in network.named_modules() if isinstance(module, Quantizer)}


OF_MODULES = frozenset(vars(nn.Module()))
"""The attributes that every module has."""


def listed(root: nn.Module, part: Any) -> str:
    """Return in words the plain list of a network that holds a module or a weight; "" where none does."""
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            held = value.values() if isinstance(value, dict) else value
            is_plain = isinstance(value, (list, tuple, dict, set)) and name not in OF_MODULES
            if is_plain and any(each is part for each in held):
                return f"{f'{path}.' if path else ''}{name} is a plain {type(value).__name__} of Python"
    return ""


FLOATS = (torch.float32, torch.float64, torch.bfloat16)
"""The floating types in which networks are converted."""


def refuse_types(network: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Raise `InvalidArgument` unless all tensors hold their values in a form that can be read, all weights in one type.

    inputs: examples of the network's inputs.

    >>> refuse_types(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), [])
    Traceback (most recent call last):
    qffs.errors.InvalidArgument: the weights have several types (0.weight float32, 1.weight float64): give them one, \
as model.float() does
    """
    weights = [(name, x) for name, x in network.named_parameters() if not nn.parameter.is_lazy(x)]
    for name, x in [*weights, *network.named_buffers(), *(("the example", x) for x in inputs)]:
        form = _unreadable(x)
        if form is not None:
            raise InvalidArgument(f"{name} {form}")
    types: dict[torch.dtype, str] = {}
    for name, x in weights:
        if x.dim() and x.is_floating_point():
            types.setdefault(x.dtype, f"{name} {_name(x)}")
    if len(types) > 1:
        listed = ", ".join(types.values())
        raise InvalidArgument(f"the weights have several types ({listed}): give them one, as model.float() does")


def _unreadable(x: Tensor) -> str | None:
    """Return in words why a tensor cannot be read as a tensor of numbers; None where it can."""
    if x.is_nested or x.layout is not torch.strided:
        form = "nested" if x.is_nested else _name(x.layout)
        return f"is a {form} tensor, which has no rule here: use a dense one (x.to_dense())"
    if x.is_quantized:
        return "is quantized already: pass the network in full precision"
    if x.is_meta:
        return "is on the meta device and has no values: load the weights, or make the network on a real device"
    if x.is_floating_point() and x.dtype not in FLOATS:
        return f"is of type {_name(x)}, which has no rule here: use float32, float64 or bfloat16"
    return None


def _name(x: Tensor | torch.layout) -> str:
    return str(x.dtype if isinstance(x, Tensor) else x).removeprefix("torch.").removeprefix("_")


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
