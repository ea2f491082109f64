"""Fan-out: into how many sums each unit that an operator reads goes, which is how many synapses lead from it."""

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
    """What an operator does with what arrives: multiplies it by weights, adds it up, passes it on as it is, or else."""

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
    """What a linear operator, a join or a sum does; what is in neither table does something else."""
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
    """Of each unit of ``like``, one image of the signal that an operator reads, in float64, of the same shape.

    At borders, and where strides leave something out, fewer synapses lead from a unit than elsewhere. others: the
    operator's other arguments, weights and shapes.
    """
    if site(node).kind is Kind.SUM:  # what is smaller is broadcast
        times = math.prod(tensor_shape(node)) // math.prod(tensor_shape(read))
        return torch.full_like(like, signals(node).count(read) * times, dtype=torch.float64)
    apply = _with_ones(node, network, others)
    if work(node, network) is Work.WEIGHTED:
        return _weighted(apply, like)
    return _windows(apply, like, batch_axis.dimension(read), batch_axis.dimension(node))


def _with_ones(node: fx.Node, network: nn.Module, others: Mapping[fx.Node, Any]) -> Callable[[Tensor], Tensor]:
    """The operator with 1 for every weight and 0 for every bias."""

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
    """The gradient of the sum of all outputs."""
    with torch.enable_grad():
        x = torch.zeros_like(like, dtype=torch.float64, requires_grad=True)
        counts: Tensor
        (counts,) = torch.autograd.grad(apply(x).sum(), x)
    return counts


def _windows(apply: Callable[[Tensor], Tensor], like: Tensor, d: int, out: int) -> Tensor:
    """How many windows each unit lies in: a product over the dimensions, as windows are.

    Where all units at one place of a dimension are 1 and the others 0, as many outputs differ from 0 as windows reach
    that place, times the windows along all other dimensions. d and out: the images' dimension before and after.
    """
    counts = torch.ones_like(like, dtype=torch.float64)
    if like.shape[d] != 1:  # an image cut into rows
        return counts
    counts /= float(apply(counts).count_nonzero()) ** (like.dim() - 2)
    for each in (k for k in range(like.dim()) if k != d):
        size = like.shape[each]
        alone = torch.eye(size, dtype=torch.float64).view([size if k in {d, each} else 1 for k in range(like.dim())])
        reached = apply(alone.expand([size if k == d else n for k, n in enumerate(like.shape)]).contiguous())
        found = reached.movedim(out, 0).flatten(1).count_nonzero(1)
        counts *= found.view([size if k == each else 1 for k in range(like.dim())])
    return counts
