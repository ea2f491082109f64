"""The fan-out of a unit: the number of sums that it enters in an operator, which is the number of its synapses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from qffs.graph import batch_axis
from qffs.graph.call import option, signals
from qffs.graph.rules import MOVING, name_of
from qffs.graph.site import Kind, site, tensor_shape


class Work(StrEnum):
    """The work of an operator: to multiply its input by weights, to add it up, to pass it on, or something else."""

    WEIGHTED = "weighted"
    ADDED = "added"
    PASSED = "passed"
    OTHER = "other"


def _modules(*names: str) -> tuple[type[nn.Module], ...]:
    return tuple(getattr(nn, f"{name}{d}d") for name in names for d in (1, 2, 3))


def _functions(*names: str) -> frozenset[str]:
    return frozenset(f"{name}{d}d" for name in names for d in (1, 2, 3))


JOINED = frozenset(
    ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "unbind", "tensor_split", "pad", "repeat")
)
SPREAD = frozenset(
    ("split_with_sizes", "tile", "repeat_interleave", "expand", "expand_as", "broadcast_to", "index_select", "gather")
)
TURNED = frozenset(
    ("t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint", "roll", "flip", "fliplr", "flipud", "rot90")
)
LIKEWISE = frozenset(
    ("view_as", "reshape_as", "type_as", "to", "getattr", "take_along_dim", "diagonal", "tril", "triu")
)

MODULES: dict[type[nn.Module], Work] = {
    **dict.fromkeys((nn.Linear, *_modules("Conv", "ConvTranspose")), Work.WEIGHTED),
    **dict.fromkeys(_modules("AvgPool", "AdaptiveAvgPool"), Work.ADDED),
    **dict.fromkeys(_modules("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad"), Work.PASSED),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten, nn.UpsamplingNearest2d), Work.PASSED),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), Work.PASSED),
}
FUNCTIONS: dict[str, Work] = {
    **dict.fromkeys({"linear", "matmul", "mm", "bmm", "mv", "einsum", "tensordot", "inner", "outer"}, Work.WEIGHTED),
    **dict.fromkeys(_functions("conv", "conv_transpose"), Work.WEIGHTED),
    **dict.fromkeys(_functions("avg_pool", "adaptive_avg_pool") | {"mean", "sum", "cumsum"}, Work.ADDED),
    **dict.fromkeys(MOVING | JOINED | SPREAD | TURNED | LIKEWISE, Work.PASSED),
}


def work(node: fx.Node, network: nn.Module) -> Work:
    """Return the work of a linear operator, a join or a sum; `Work.OTHER` if it is in neither table."""
    if site(node).kind is Kind.SUM:
        return Work.ADDED
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
        return Work.PASSED if nearest else MODULES.get(type(module), Work.OTHER)
    name = name_of(node) or ""
    if name == "interpolate":
        return Work.PASSED if option(node, 3, "mode", "nearest") == "nearest" else Work.OTHER
    return FUNCTIONS.get(name, Work.OTHER)


def fan_out(node: fx.Node, read: fx.Node, network: nn.Module, others: Mapping[fx.Node, Any], like: Tensor) -> Tensor:
    """Return the fan-out of each unit of a signal at an operator, in float64, in the shape of ``like``.

    node: the operator. read: the node of the signal. others: the values of the other arguments of the operator, such as
    weights and shapes. like: one image of the signal; only its shape is used. At borders, and where strides skip
    positions, fewer synapses lead from a unit than elsewhere.
    """
    if site(node).kind is Kind.SUM:  # the smaller operand is broadcast
        times = math.prod(tensor_shape(node)) // math.prod(tensor_shape(read))
        return torch.full_like(like, signals(node).count(read) * times, dtype=torch.float64)
    apply = _with_ones(node, network, others)
    if work(node, network) is Work.WEIGHTED:
        return _weighted(apply, like)
    return _windows(apply, like, batch_axis.dimension(read), batch_axis.dimension(node))


def _with_ones(node: fx.Node, network: nn.Module, others: Mapping[fx.Node, Any]) -> Callable[[Tensor], Tensor]:
    """Return the operator as a function of the signal, with 1 for every weight and 0 for every bias."""

    def apply(x: Tensor) -> Tensor:
        def argument(n: fx.Node) -> Any:
            value = others.get(n, x)
            constant = isinstance(value, Tensor) and value is not x and value.is_floating_point()
            return torch.ones_like(value, dtype=torch.float64) if constant else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        if node.op == "call_module":
            module = network.get_submodule(str(node.target))
            plain = {
                name: torch.full_like(tensor, float(not name.endswith("bias")), dtype=torch.float64)
                for name, tensor in module.state_dict().items()
            }
            result: Tensor = functional_call(module, plain, args, kwargs)
        elif node.op == "call_method":
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            result = node.target(*args, **kwargs)
        return result

    return apply


def _weighted(apply: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return the gradient of the sum of all outputs."""
    with torch.enable_grad():
        x = torch.zeros_like(like, dtype=torch.float64, requires_grad=True)
        counts: Tensor
        (counts,) = torch.autograd.grad(apply(x).sum(), x)
    return counts


def _windows(apply: Callable[[Tensor], Tensor], like: Tensor, d: int, out: int) -> Tensor:
    """Return the number of windows that each unit lies in: a product over the dimensions, as windows are boxes.

    If all units at one position of a dimension are 1 and all others are 0, the number of nonzero outputs is the number
    of windows that contain the position, times the number of windows along all other dimensions.
    d, out: the batch dimension of the input and of the output.
    """
    counts = torch.ones_like(like, dtype=torch.float64)
    if like.shape[d] != 1:  # images that are cut into rows
        return counts
    counts /= float(apply(counts).count_nonzero()) ** (like.dim() - 2)
    for dimension in (k for k in range(like.dim()) if k != d):
        size = like.shape[dimension]
        single = torch.eye(size, dtype=torch.float64).view(
            [size if k in {d, dimension} else 1 for k in range(like.dim())]
        )
        reached = apply(single.expand([size if k == d else n for k, n in enumerate(like.shape)]).contiguous())
        windows = reached.movedim(out, 0).flatten(1).count_nonzero(1)
        counts *= windows.view([size if k == dimension else 1 for k in range(like.dim())])
    return counts
