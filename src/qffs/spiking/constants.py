"""The constant part of a linear operator, without memory of its own where a sum needs none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qffs.graph.nested import Nested
from qffs.graph.site import Kind, site
from qffs.kernels.layer import DIMENSIONS
from qffs.spiking.operands import CONSTANT, Operands, broadcasts_to


def constant_of(node: fx.Node, operands: Operands) -> Nested:
    """Return the constant part of a linear operator, a sum or a join; None where it is zero."""
    plain = site(node).operator == "add" and len(node.args) == 2 and not node.kwargs
    total = _sum_of_two(node, operands) if plain else None
    return operands.linear(node, CONSTANT) if total is None else total


def _sum_of_two(node: fx.Node, operands: Operands) -> Tensor | None:
    """Return the constant part of a sum of two where it takes no memory of its own; None where it does.

    If one operand alone has a constant part, the sum is that part, broadcast: a bias, say, for those who add it up. A
    bias is added in place to what a layer made of the input, if no other node reads that.
    """
    one, other = node.args
    a, b = (operands.read(n).constant if isinstance(n, fx.Node) else n for n in node.args)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        fits = a.dtype == b.dtype and broadcasts_to(b.shape, a.shape)
        return a.add_(b) if fits and _is_spent(one, operands.network) else None
    absent, there = (one, b) if a is None else (other, a)
    added_up = all(site(user).kind in {Kind.SPIKING, Kind.SUM} for user in node.users)
    zeros = operands.zeros_of(absent, CONSTANT) if added_up and isinstance(absent, fx.Node) else None
    if zeros is None or not isinstance(there, Tensor) or zeros.dtype != there.dtype:
        return None
    total: Tensor = torch.broadcast_tensors(there, zeros)[0]
    return total


def _is_spent(node: Any, network: fx.GraphModule) -> bool:
    """Return whether the value of a node is a new tensor that a single node reads, so that it may be overwritten."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or not site(node).signal:
        return False
    module = network.get_submodule(str(node.target))
    return type(module) in DIMENSIONS and len(node.users) == 1 and not module._forward_hooks
