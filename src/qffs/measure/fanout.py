"""Fan-out: into how many sums each unit that an operator reads goes, which is how many synapses lead from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from qffs.graph.annotate import name_of
from qffs.graph.rules import Kind


class Work(StrEnum):
    """What an operator does with what arrives: multiplies it by weights, adds it up, or moves or scales it."""

    WEIGHTED = "weighted"
    ADDED = "added"
    MOVED = "moved"


def _modules(*names: str) -> tuple[type[nn.Module], ...]:
    return tuple(getattr(nn, f"{name}{d}d") for name in names for d in (1, 2, 3))


def _functions(*names: str) -> frozenset[str]:
    return frozenset(f"{name}{d}d" for name in names for d in (1, 2, 3))


MODULES: dict[type[nn.Module], Work] = {
    **dict.fromkeys((nn.Linear, *_modules("Conv", "ConvTranspose")), Work.WEIGHTED),
    **dict.fromkeys(_modules("AvgPool", "AdaptiveAvgPool"), Work.ADDED),
}
FUNCTIONS: dict[str, Work] = {
    **dict.fromkeys({"linear", "matmul", "mm", "bmm", "mv", "einsum", "tensordot", "inner", "outer"}, Work.WEIGHTED),
    **dict.fromkeys(_functions("conv", "conv_transpose"), Work.WEIGHTED),
    **dict.fromkeys(_functions("avg_pool", "adaptive_avg_pool") | {"mean", "sum", "cumsum"}, Work.ADDED),
}


def work(node: fx.Node, network: nn.Module) -> Work:
    """What a linear operator, a join or a sum does; those in neither table move or scale."""
    if node.meta["kind"] is Kind.SUM:
        return Work.ADDED
    if node.op == "call_module":
        return MODULES.get(type(network.get_submodule(str(node.target))), Work.MOVED)
    return FUNCTIONS.get(name_of(node) or "", Work.MOVED)


def fan_out(node: fx.Node, network: nn.Module, read: Mapping[fx.Node, Any], like: Tensor) -> Tensor:
    """Of each unit of ``like``, one image of the signal that an operator reads, in float64, of the same shape.

    At borders, and where strides leave something out, fewer synapses lead from a unit than elsewhere. read: the
    operator's other arguments, weights and shapes.
    """
    if node.meta["kind"] is Kind.SUM:
        return torch.ones_like(like, dtype=torch.float64)
    apply = _with_ones(node, network, read)
    return _weighted(apply, like) if work(node, network) is Work.WEIGHTED else _windows(apply, like)


def _with_ones(node: fx.Node, network: nn.Module, read: Mapping[fx.Node, Any]) -> Callable[[Tensor], Tensor]:
    """The operator with 1 for every weight and 0 for every bias."""

    def apply(x: Tensor) -> Tensor:
        def argument(n: fx.Node) -> Any:
            value = read.get(n, x)
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


def _windows(apply: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """How many windows each unit lies in: a product over the dimensions, as windows are.

    Where all units at one place of a dimension are 1 and the others 0, as many outputs differ from 0 as windows reach
    that place, times the windows along all other dimensions.
    """
    ones = torch.ones_like(like, dtype=torch.float64)
    outputs = int(apply(ones).count_nonzero())
    counts = ones / float(outputs) ** (like.dim() - 2)
    for d in range(1, like.dim()):
        size = like.shape[d]
        shape = [size if each in {0, d} else 1 for each in range(like.dim())]
        each_alone = torch.eye(size, dtype=torch.float64).view(shape).expand(size, *like.shape[1:])
        reached = apply(each_alone.contiguous()).flatten(1).count_nonzero(1)
        counts *= reached.view([size if each == d else 1 for each in range(like.dim())])
    return counts
