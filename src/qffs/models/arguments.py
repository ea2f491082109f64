"""Keyword arguments for what builds a network: which it takes, and what is said about others."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from qffs.errors import InvalidArgument

Arguments = Mapping[str, Any]

_REFUSED = re.compile(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(\w*)'")


def check(name: str, builder: Callable[..., Any], arguments: Arguments) -> None:
    """Raise `InvalidArgument` on an argument that a builder does not take, and where it needs others."""
    try:
        signature = inspect.signature(builder)
    except ValueError:  # what is not written in Python may have no signature: the call will tell
        return
    parameters = signature.parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        known = [each.name for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}]
        for argument in arguments:
            if argument not in known:
                raise unknown(name, argument, known)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        given = f"with only {', '.join(arguments)}" if arguments else "without arguments"
        raise InvalidArgument(f"{name} is called {given}: {error}") from error


def build(name: str, library: Callable[..., Any], told: Arguments, arguments: Arguments) -> nn.Module:
    """What a library's function returns that hands arguments on to the class of a network.

    told: what it is told anyway; the function's own arguments are not the user's, since they fetch weights. Raises
    `InvalidArgument` on those, and where an argument is refused on the way, naming those that the class takes.
    """
    own = [each.name for each in _parameters(library) if each.kind is not each.VAR_KEYWORD]
    refused = next((argument for argument in arguments if argument in own), None)
    if refused is None:
        try:
            network: nn.Module = library(**{**told, **arguments})
        except TypeError as error:
            match = _REFUSED.search(str(error))
            if match is None or match[1] not in arguments:
                raise
            refused = match[1]
        else:
            return network
    # Those without a default are for the library to give: they say which network of the class it is.
    takes = [each.name for each in _parameters(type(library(**told))) if each.default is not each.empty]
    raise unknown(name, refused, [argument for argument in takes if argument != refused])


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


def unknown(name: str, argument: str, known: Iterable[str]) -> InvalidArgument:
    """The error that names the arguments there are, those most like the one asked for first."""
    likeness = difflib.SequenceMatcher(b=argument)

    def unlike(other: str) -> float:
        likeness.set_seq1(other)
        return -likeness.ratio()

    takes = ", ".join(sorted(known, key=unlike))
    return InvalidArgument(f"{name} takes no argument {argument!r}; it takes {takes or 'none'}")
