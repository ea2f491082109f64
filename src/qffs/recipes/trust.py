"""Which functions a recipe may name: building a network calls them with arguments of the recipe.

A recipe is data, perhaps from somebody else, and ``subprocess:getoutput`` is a function too. So a function that a file
names must be defined in the current folder. This is read from its source, and nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

LIBRARIES = ("torchvision", "timm")
"""The names before a colon that are no modules of the user."""
DEEPEST = 8
"""The most modules from which a name may be imported in turn."""


def distrusted(model: str, key: str = "model") -> str | None:
    """Return why a recipe may not name this model under a key, as the end of a sentence; None where it may.

    >>> distrusted("torchvision:resnet18"), distrusted("digits_net")
    (None, None)
    >>> distrusted("subprocess:getoutput")[:50]
    'names a function that no module of the current fol'
    """
    path, colon, attribute = model.partition(":")
    parts = path.split(".")
    if not colon or path in LIBRARIES:
        return None
    if all(part.isidentifier() for part in parts) and _defines(Path.cwd().joinpath(*parts), attribute, DEEPEST):
        return None
    return (
        "names a function that no module of the current folder defines, and a recipe could run any code so: if you "
        f"trust it, type {key}={model} on the command line too, or give --trust"
    )


def _defines(module: Path, attribute: str, depth: int) -> bool:
    """Return whether a module defines a function or class, imports it from beside, or a class of it has it."""
    first, *rest = attribute.split(".")
    files = (module.with_name(f"{module.name}.py"), module / "__init__.py")
    file = next((file for file in files if file.is_file()), None)
    if file is None or not depth or any(part.startswith("_") for part in rest) or not _is_imported(file):
        return False
    for node in _statements(file):
        match node:
            case ast.ClassDef() if node.name == first:
                return True
            case ast.FunctionDef() if node.name == first:
                return not rest
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == first for target in targets):
                    return not rest
            case ast.ImportFrom():
                for alias in node.names:
                    if (alias.asname or alias.name) == first:
                        return _defines(_imported(node, file), ".".join([alias.name, *rest]), depth - 1)
    return False


def _is_imported(file: Path) -> bool:
    """Return whether Python takes the top module of a file in the current folder from there, and imports nothing.

    A ``subprocess.py`` of the folder is never it, nor is a file with the name of a module that is loaded already.
    """
    here = Path.cwd()
    if not file.is_relative_to(here):
        return False
    name = file.relative_to(here).parts[0].removesuffix(".py")
    if name in sys.stdlib_module_names:
        return False
    path = sys.path if str(here) in sys.path else [str(here), *sys.path]  # as `qffs.models.function` searches
    loaded = sys.modules.get(name)
    found = loaded.__spec__ if loaded is not None else PathFinder.find_spec(name, path)
    places = [found.origin, *(found.submodule_search_locations or [])] if found is not None else []
    return any(str(here / place) in places for place in (f"{name}.py", f"{name}/__init__.py", name))


def _statements(file: Path) -> Iterator[ast.stmt]:
    """Yield the statements of a source file, the last ones first, with those within ``if`` and ``try``."""
    try:
        waiting = list(ast.parse(file.read_bytes()).body)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If | ast.Try):
            waiting += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]


def _imported(node: ast.ImportFrom, file: Path) -> Path:
    """Return the module from which a statement in a file imports, without its suffix."""
    base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else Path.cwd()
    return base.joinpath(*(node.module or "").split("."))
