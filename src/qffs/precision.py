"""Which activation is how fine: the choices a user makes by name patterns, path by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from qffs.errors import InvalidArgument

T = TypeVar("T")

SHOWN = 3
"""How many paths a message names."""


def resolve(choices: Mapping[str, T], paths: Sequence[str]) -> dict[str, T]:
    """The choice for each path, in the order of ``paths``: that of the first pattern that matches it.

    choices: by pattern, as `fnmatch.fnmatchcase` reads it (``*`` any characters, ``?`` one, ``[ab]`` one of these).
    Raises `InvalidArgument` where a pattern decides nothing, because it matches no path or only what patterns before it
    took, and where no pattern matches a path.

    >>> resolve({"layer4.*": 3, "*": 2}, ["stem.relu", "layer4.0.relu"])
    {'stem.relu': 2, 'layer4.0.relu': 3}
    """
    deciding = {path: next((pattern for pattern in choices if fnmatchcase(path, pattern)), None) for path in paths}
    for pattern in choices:
        if pattern not in deciding.values():
            raise InvalidArgument(_idle(pattern, deciding))
    left = [path for path, pattern in deciding.items() if pattern is None]
    if left:
        raise InvalidArgument(f'no pattern matches {_some(left)}: end with "*", which matches all that is left')
    return {path: choices[pattern] for path, pattern in deciding.items() if pattern is not None}


def _idle(pattern: str, deciding: Mapping[str, str | None]) -> str:
    """Why a pattern decides nothing, in a sentence."""
    taken = [path for path in deciding if fnmatchcase(path, pattern)]
    if taken:
        return f"{pattern!r} decides nothing: {deciding[taken[0]]!r} before it matches {_some(taken)}; put it first"
    near = get_close_matches(pattern, deciding, SHOWN) or list(deciding)
    return f"{pattern!r} matches no activation that is to be quantised; there are {_some(near)}"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
