"""Sizes of files and functions, private names that are defined twice, and where tests lie: read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.house.imports import Name, files, imported_names, parsed


class Sized(NamedTuple):
    """A file or function, and its lines or parameters."""

    where: str
    size: int


# Sizes


def long_files(source: Path, lines: int) -> list[Sized]:
    """Return the files of more than so many lines."""
    sizes = [Sized(_shown(path, source), len(_text(path).splitlines())) for path in files(source).values()]
    return [each for each in sizes if each.size > lines]


def long_functions(source: Path, lines: int) -> list[Sized]:
    """Return the functions of more than so many lines."""
    sizes = [Sized(where, (node.end_lineno or 0) - node.lineno + 1) for where, node in _functions(source)]
    return [each for each in sizes if each.size > lines]


def wide_functions(source: Path, parameters: int) -> list[Sized]:
    """Return the functions of more than so many parameters, ``self`` among them."""
    sizes = [Sized(where, _parameters(node.args)) for where, node in _functions(source)]
    return [each for each in sizes if each.size > parameters]


def _parameters(arguments: ast.arguments) -> int:
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)


def _functions(source: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in files(source).values():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{_shown(path, source)}:{node.lineno} {node.name}", node


def long_c_functions(source: Path, lines: int) -> list[Sized]:
    """Return the functions of the C sources of more than so many lines, from their first line to the last brace."""
    paths = sorted(path for path in source.rglob("*") if path.suffix in (".c", ".h"))
    sizes = [Sized(f"{_shown(path, source)}:{first} {name}", last - first + 1)
             for path in paths for name, first, last in c_functions(_text(path))]  # fmt: skip
    return [each for each in sizes if each.size > lines]


def c_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, first and last line of each function: parentheses and then braces, outside of all other braces."""
    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', _blanked, text, flags=re.DOTALL)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", _blanked, text, flags=re.MULTILINE)
    depth, opened, head = 0, 0, 0
    for place, character in enumerate(text):
        if character == "{":
            depth += 1
            opened = place if depth == 1 else opened
        elif character == "}":
            depth -= 1
            before = text[head:opened]
            if depth == 0 and before.rstrip().endswith(")"):
                start = head + len(before) - len(before.lstrip())
                name = before.split("(")[0].split()[-1]
                yield name, text.count("\n", 0, start) + 1, text.count("\n", 0, place) + 1
        if depth == 0 and character in "};":
            head = place + 1


def _blanked(match: re.Match[str]) -> str:
    """Return as many lines as there were, with nothing in them."""
    return "\n" * match[0].count("\n")


# Private names


class Class(NamedTuple):
    """A class: the classes that it names as its bases, and the private names that it defines."""

    bases: tuple[Name, ...]
    private: frozenset[str]


def private_overrides(source: Path) -> list[str]:
    """Return a line for each private method or attribute that a base class of another file defines too.

    Private is what begins with one underscore. Attributes are those of the class, and those set on ``self``.
    """
    classes, aliases = _classes(source)

    def resolved(name: Name) -> Name:
        while name not in classes and name in aliases:
            name = aliases[name]
        return name

    def above(name: Name) -> Iterator[Name]:
        for base in map(resolved, classes[name].bases):
            if base in classes:
                yield base
                yield from above(base)

    return sorted(
        f"{'.'.join(name)}.{private} is defined by {'.'.join(base)} too"
        for name, each in classes.items()
        for base in dict.fromkeys(above(name))
        if base[:-1] != name[:-1]
        for private in each.private & classes[base].private
    )


def _classes(source: Path) -> tuple[dict[Name, Class], dict[Name, Name]]:
    """Return the classes by full name, and for each name that a file imports, what it stands for."""
    classes: dict[Name, Class] = {}
    aliases: dict[Name, Name] = {}
    for module, path in files(source).items():
        package = module if path.name == "__init__.py" else module[:-1]
        tree = parsed(path)
        names: dict[str, Name] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias, name in zip(node.names, imported_names(node, package), strict=True):
                    names[alias.asname or alias.name] = name
        aliases |= {(*module, short): name for short, name in names.items()}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = (tuple(ast.unparse(base).partition("[")[0].split(".")) for base in node.bases)
                known = tuple((*names.get(base[0], (*module, base[0])), *base[1:]) for base in bases)
                classes[(*module, node.name)] = Class(known, frozenset(_private(node)))
    return classes, aliases


def _private(node: ast.ClassDef) -> Iterator[str]:
    """Yield the private names that a class defines."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from filter(_is_private, [each.name])
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            yield from filter(_is_private, [target.id for target in targets if isinstance(target, ast.Name)])
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and ast.unparse(each.value) == "self":
            yield from filter(_is_private, [each.attr])


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


# Where tests lie

WHOLE = frozenset({"test_qffs", "test_docs", "test_house", "test_quick", "test_benchmarks"})
"""Tests of the whole project."""


def misplaced_tests(tests: Path, source: Path, scripts: Path) -> list[str]:
    """Return the test files that do not lie at the path of a source file; see tests/test_house.py for the rule."""
    paths = sorted(path.relative_to(tests) for path in tests.rglob("test_*.py"))
    return [path.as_posix() for path in paths if not _is_placed(path, source, scripts)]


def _is_placed(path: Path, source: Path, scripts: Path) -> bool:
    noun = path.stem.removeprefix("test_")
    if path.parent == Path() and path.stem in WHOLE:
        return True
    if path.parts[0] == "scripts":
        return scripts.joinpath(*path.parts[1:-1], f"{noun}.py").is_file()
    folder = source / path.parent
    of_file = (folder / f"{noun}.py").is_file() or (folder / noun / "__init__.py").is_file()
    of_package = path.parent != Path() and folder.name == noun and (folder / "__init__.py").is_file()
    one_of_several = path.parent != Path() and folder.with_name(f"{folder.name}.py").is_file()
    return of_file or of_package or one_of_several


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _shown(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()
