"""Copies of networks that were in use: training leaves tensors, hooks and parametrizations in them."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from qffs.errors import InvalidArgument

Network = TypeVar("Network", bound=nn.Module)

ATOMIC = (type, ModuleType, FunctionType, BuiltinFunctionType)
"""What a deep copy does not look into."""


def copied(network: Network, weights: Mapping[int, nn.Parameter] | None = None) -> Network:
    """Return a deep copy of a network, in which every tensor that autograd has computed is detached.

    A network that was trained may keep such tensors in its attributes (its features, its last loss), in lists and
    dictionaries too. They are no weights, but PyTorch refuses to copy them. weights: what the copy has in the place of
    weights of the network, by their `id`. Raises `InvalidArgument` where an attribute
    cannot be copied for another reason, such as an open file.

    >>> layer = nn.Linear(2, 1)
    >>> layer.outputs = [layer(torch.ones(1, 2))]
    >>> copied(layer).outputs[0].requires_grad
    False
    """
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _computed(network)}
    memo.update(weights or {})
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:  # an attribute may be of any class, whose copy may raise anything
        raise InvalidArgument(
            f"the network cannot be copied, because {_not_copied(network)}: {error}; delete what is no part of the "
            "network first"
        ) from error


def _computed(network: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that autograd has computed, wherever a deep copy of a network would meet it."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [network]
    while waiting:
        each = waiting.pop()
        if isinstance(each, ATOMIC) or id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, Tensor) and not each.is_leaf:
            yield each
        else:
            waiting.extend(gc.get_referents(each))


def _not_copied(network: nn.Module) -> str:
    """Return in words which attribute of a network cannot be copied."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            try:
                copy.deepcopy(value)
            except Exception:
                if name != "_modules":  # its own attributes come later
                    return f"{path or 'the network'} has the attribute {name!r}, a {type(value).__name__}"
    return "an attribute forbids it"


HOOKS: dict[type, tuple[str, Callable[[nn.Module, str], nn.Module]]] = {
    prune.BasePruningMethod: ("_tensor_name", prune.remove),
    WeightNorm: ("name", remove_weight_norm),
    SpectralNorm: ("name", remove_spectral_norm),
}
"""The hooks of torch that compute a weight before each call: where each has its name, and how to replace it."""


def with_plain_weights(network: Network) -> Network:
    """Return a network, or, where it computes weights from others, a copy in eval mode with their values now."""
    if not any(parametrize.is_parametrized(module) or list(_hooks(module)) for module in network.modules()):
        return network
    network = copied(network).eval()
    make_weights_plain(network)
    return network


def _hooks(module: nn.Module) -> Iterator[Callable[[], Any]]:
    """Yield for each hook of a module that computes a weight the function that replaces it."""
    for hook in list(module._forward_pre_hooks.values()):
        for kind, (name, remove) in HOOKS.items():
            if isinstance(hook, kind):
                yield partial(remove, module, getattr(hook, name))


@torch.no_grad()
def make_weights_plain(network: nn.Module) -> None:
    """Replace every weight that is computed from others by its value now, in place.

    Such weights come from `torch.nn.utils.parametrize` and from the hooks of pruning, weight norm and spectral norm.

    >>> layer = parametrize.register_parametrization(nn.Linear(2, 1), "weight", nn.Softplus())
    >>> make_weights_plain(layer)
    >>> layer
    Linear(in_features=2, out_features=1, bias=True)
    """
    for module in list(network.modules()):
        for replace in _hooks(module):
            replace()
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            weights = {name: getattr(module, name).clone() for name in module.parametrizations}
            # `remove_parametrizations` would change the class, which the network that was copied shares.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
