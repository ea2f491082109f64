"""The YAML of recipes: values as in the core schema of YAML 1.2, and the line of every key.

So ``1e-3`` is a number, and ``no``, ``on`` and dates are texts. The only values are mappings, lists, texts, whole
numbers, numbers, true, false and null. A key that stands twice, anchors and aliases are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from qffs.errors import InvalidArgument

Key = tuple[str, ...]

_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+", [*"-+0123456789"]),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+0123456789."]),
}
_MAKE: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
    "str": str,
}
_TAG = "tag:yaml.org,2002:"


class _Reader(yaml.SafeLoader):
    """PyYAML's loader with the scalars of YAML 1.2 instead of 1.1."""


class _Writer(yaml.SafeDumper):
    """PyYAML's dumper, which puts texts in quotes that YAML 1.1 or 1.2 would read as another type."""


_Reader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _SCALARS.items():
    for _each in (_Reader, _Writer):
        _each.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str) -> tuple[Any, dict[Key, int]]:
    """Return the value of a text, and the line of each of its keys, counted from 1.

    Raises `InvalidArgument` if the text is no YAML of this kind.

    >>> parse("a: {b: 1e-3, c: no}")
    ({'a': {'b': 0.001, 'c': 'no'}}, {('a',): 1, ('a', 'b'): 1, ('a', 'c'): 1})
    """
    lines: dict[Key, int] = {}
    try:
        node = yaml.compose(text, _Reader)
        return (None if node is None else _value(node, (), lines, set())), lines
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        raise _refused(mark.line + 1 if mark else 1, f"this is no YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise InvalidArgument(f"this is no YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InvalidArgument("this is nested too deep") from None


def dump(values: dict[str, Any]) -> str:
    """Return the YAML of plain values; `parse` returns equal values from it."""
    text: str = yaml.dump(values, Dumper=_Writer, sort_keys=False, width=120)
    return text


def _value(node: Node, key: Key, lines: dict[Key, int], seen: set[int]) -> Any:
    if id(node) in seen:
        raise _refused(_line(node), "anchors (&) and aliases (*) are not used in recipes: write the value out")
    seen.add(id(node))
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, MappingNode) and kind == "map":
        return dict(_items(node, key, lines, seen))
    if isinstance(node, SequenceNode) and kind == "seq":
        return [_value(each, (*key, str(index)), lines, seen) for index, each in enumerate(node.value)]
    if isinstance(node, ScalarNode) and kind in _MAKE:
        return _scalar(node, kind)
    raise _refused(_line(node), f"a recipe holds no {node.tag.replace(_TAG, '!!')}")


def _items(node: MappingNode, key: Key, lines: dict[Key, int], seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, each in node.value:
        if not isinstance(name, ScalarNode):
            raise _refused(_line(name), "a key must be a text")
        _check_characters(name)
        inner = (*key, name.value)
        if inner in lines:
            raise _refused(_line(name), f"{'.'.join(inner)} stands twice, first on line {lines[inner]}")
        lines[inner] = _line(name)
        yield name.value, _value(each, inner, lines, seen)


def _check_characters(node: ScalarNode) -> None:
    r"""Raise `InvalidArgument` on a half character such as ``"\uD800"``, which no file or terminal can hold."""
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise _refused(_line(node), f"{node.value[:40]!a} holds half a character") from None


def _scalar(node: ScalarNode, kind: str) -> Any:
    _check_characters(node)
    try:
        value = _MAKE[kind](node.value)
    except ValueError:  # a tag that does not fit, or more digits than Python reads
        raise _refused(_line(node), f"{node.value[:40]!r} is no {kind}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(_line(node), f"{node.value} is too large a number")
    return value


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _refused(line: int, reason: str) -> InvalidArgument:
    return InvalidArgument(f"line {line}: {reason}")
