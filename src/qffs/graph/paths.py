"""The paths of modules and calls in a network."""

from __future__ import annotations

from torch import fx, nn


def owner(node: fx.Node) -> str:
    """Return the path of the module whose ``forward`` calls the node; "" for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def free_path(traced: nn.Module, path: str) -> str:
    """Return ``path``, or the first of ``path_2, path_3, ...`` that no attribute of ``traced`` has."""
    candidate, number = path, 1
    while has(traced, candidate):
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def has(module: nn.Module, path: str) -> bool:
    """Return whether ``module`` has an attribute at a path."""
    parent, _, name = path.rpartition(".")
    try:
        return hasattr(module.get_submodule(parent), name)
    except AttributeError:
        return False
