"""Which file of the package imports which: every ``import`` statement counts, wherever it stands.

Imports inside functions and under ``if TYPE_CHECKING:`` are counted like all others, and so is
``import_module("qffs.name")``; only these two kinds are not `Import.eager`. An import of ``qffs.nn.neuron`` leads to
that file, not to ``qffs/nn/__init__.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PACKAGE = "qffs"

Name = tuple[str, ...]
"""The full name of a module in parts: ``("qffs", "nn", "neuron")``; a package is named by its folder."""

Arrows = Mapping[str, frozenset[str]]
"""For each module or room, those that it imports."""


class Import(NamedTuple):
    """A statement that imports ``module``; ``eager``: it runs when the file is loaded."""

    line: int
    text: str
    module: Name
    eager: bool

    @property
    def room(self) -> str:
        """The room that the import leads to."""
        return room_of(self.module)


def files(source: Path) -> dict[Name, Path]:
    """Return the files of the package that lies at ``source``, by the names of their modules."""
    return {module_of(path, source): path for path in sorted(source.rglob("*.py"))}


def module_of(path: Path, source: Path) -> Name:
    """``.../qffs/nn/neuron.py`` -> ``("qffs", "nn", "neuron")``; a package is named by its folder."""
    parts = (PACKAGE, *path.relative_to(source).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(module: Name) -> str:
    """Return the module or folder directly under the package, "__init__" for the package itself."""
    return module[1] if len(module) > 1 else "__init__"


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, source: Path) -> list[Import]:
    """Return each import of a part of the package in one file, in the order of lines."""
    module = module_of(path, source)
    package = module if path.name == "__init__.py" else module[:-1]
    every = []
    for node, eager in _statements(parsed(path), eager=True):
        for name in dict.fromkeys(
            _file(name, source) for name in imported_names(node, package) if name[:1] == (PACKAGE,)
        ):
            every.append(Import(node.lineno, ast.unparse(node), name, eager))
    return sorted(each for each in every if each.module != module)


def _statements(tree: ast.AST, eager: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    """Yield each node that imports, and whether it runs when the file is loaded."""
    if isinstance(tree, ast.Import | ast.ImportFrom | ast.Call):
        yield tree, eager
    types_only = isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING")
    inside = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(tree):
        skipped = isinstance(tree, ast.If) and types_only and child in tree.body
        yield from _statements(child, eager and not inside and not skipped)


def imported_names(node: ast.AST, package: Name) -> list[Name]:
    """Return the full names that a node imports, of modules or of what they define."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else ()
        module = start + tuple(node.module.split(".") if node.module else ())
        return [(*module, alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        texts = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
        return [tuple(text.split(".")) for text in texts if isinstance(text, str)]
    return []


def _file(name: Name, source: Path) -> Name:
    """Return the module that a name leads to: itself, or the module that defines it."""
    path = source.joinpath(*name[1:])
    if len(name) == 1 or path.is_dir() or path.with_name(f"{path.name}.py").is_file():
        return name
    return _file(name[:-1], source)


def arrows(source: Path, eager: bool = False) -> dict[str, frozenset[str]]:
    """Return which module of the package imports which; eager: only what is imported when a file is loaded."""
    return _grouped(source, ".".join, eager)


def room_arrows(source: Path) -> dict[str, frozenset[str]]:
    """Return which room of the package imports which."""
    return _grouped(source, room_of, eager=False)


def _grouped(source: Path, group: Callable[[Name], str], eager: bool) -> dict[str, frozenset[str]]:
    ours = files(source)
    groups: dict[str, set[str]] = {group(name): set() for name in ours}
    for name, path in ours.items():
        targets = {group(each.module) for each in imports(path, source) if each.module in ours and each.eager >= eager}
        groups[group(name)] |= targets - {group(name)}
    return {name: frozenset(targets) for name, targets in groups.items()}


def reached(graph: Arrows, start: str) -> set[str]:
    """Return what one module imports, directly or through others; itself only where it lies on a circle."""
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left.extend(graph[name])
    return seen


def circles(graph: Arrows) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle."""
    of_each = {name: reached(graph, name) for name in graph}
    groups = {frozenset(other for other in after if name in of_each[other])
              for name, after in of_each.items() if name in after}  # fmt: skip
    return sorted(sorted(group) for group in groups)


def longest_chain(graph: Arrows) -> list[str]:
    """Return a longest chain of modules of which each imports the next; a circle counts as no step."""
    group_of = {name: number for number, group in enumerate(circles(graph)) for name in group}

    def below(name: str) -> list[str]:
        same = group_of.get(name, name)
        return sorted(other for other in graph[name] if group_of.get(other, other) != same)

    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter({name: below(name) for name in graph}).static_order():
        chains[name] = [name, *max((chains[other] for other in below(name)), key=len, default=[])]
    return max(chains.values(), key=len, default=[])
