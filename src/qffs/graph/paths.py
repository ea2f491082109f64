"""The paths of modules and calls in a network."""

from __future__ import annotations

import keyword
import unicodedata

from torch import fx, nn

from qffs.errors import NotTraceable


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


def is_writable(path: str) -> bool:
    """Return whether `torch.fx` can write a path into the source of a graph, where a dot or `getattr` reads each part.

    >>> [path for path in ("conv.0", "my layer", "class", 'a"b', "") if is_writable(path)]
    ['conv.0', 'my layer']
    """
    return all(map(_is_writable, path.split(".")))


def _is_writable(part: str) -> bool:
    if part.isidentifier():
        return not keyword.iskeyword(part) and unicodedata.normalize("NFKC", part) == part  # as Python reads it
    return part != "" and part.isprintable() and not set(part) & {'"', "\\"}


def refuse_names(model: nn.Module, graph: fx.Graph) -> None:
    """Raise `NotTraceable` where a name in the model cannot be the same in its graph."""
    of_graphs, of_modules = dir(fx.GraphModule(nn.Module(), fx.Graph())), vars(nn.Module())
    read = [str(node.target) for node in graph.nodes if node.op in {"call_module", "get_attr"}]
    wrong = [path for path in read if not is_writable(path) or any(part in of_modules for part in path.split("."))]
    wrong += [name for name in (*model._modules, *model._parameters, *model._buffers) if name in of_graphs]
    if wrong:
        raise NotTraceable(
            f"{type(model).__name__} cannot be read as a static graph: its part {wrong[0]!r} must have another name, "
            "because torch.fx cannot write a keyword of Python, a quotation mark or a backslash, and has a use of its "
            "own for names such as graph and code"
        )
