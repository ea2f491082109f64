"""Where modules and calls stand in a network, by their paths."""

from __future__ import annotations

from torch import fx, nn


def owner(node: fx.Node) -> str:
    """The path of the module in whose ``forward`` the node was called; "" for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def free_path(traced: nn.Module, path: str) -> str:
    """``path``, or the first of ``path_2, path_3, ...`` that no attribute of ``traced`` has."""
    candidate, number = path, 1
    while has(traced, candidate):
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def has(module: nn.Module, path: str) -> bool:
    """Whether there is anything at a path of ``module``."""
    parent, _, name = path.rpartition(".")
    try:
        return hasattr(module.get_submodule(parent), name)
    except AttributeError:
        return False
