"""Keyword arguments for the function that builds a network: those that it takes, and the message about others."""

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
    """Raise `InvalidArgument` on an argument that ``builder`` does not take, and where a required one is missing."""
    try:
        signature = inspect.signature(builder)
    except ValueError:  # a function written in C may have no signature: then the call itself raises
        return
    parameters = signature.parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        names = [each.name for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}]
        for argument in arguments:
            if argument not in names:
                raise unknown(name, argument, names)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        manner = f"with only {', '.join(arguments)}" if arguments else "without arguments"
        raise InvalidArgument(f"{name} is called {manner}: {error}") from error


def build(name: str, library: Callable[..., Any], fixed: Arguments, arguments: Arguments) -> nn.Module:
    """Return the network that a function of a library builds from the user's arguments.

    name: the name of the network in messages. library: the function; it passes unknown arguments on to the class of the
    network. fixed: arguments that the function always receives. arguments: the user's arguments.

    Raises `InvalidArgument`, with the arguments that the class takes, on an argument that the class refuses, and on the
    named arguments of the function itself, because they download weights.
    """
    reserved = [each.name for each in _parameters(library) if each.kind is not each.VAR_KEYWORD]
    refused = next((argument for argument in arguments if argument in reserved), None)
    if refused is None:
        try:
            network: nn.Module = library(**{**fixed, **arguments})
        except TypeError as error:
            match = _REFUSED.search(str(error))
            if match is None or match[1] not in arguments:
                raise
            refused = match[1]
        else:
            return network
    # The library sets the arguments without a default: they decide which network of the class this is.
    names = [each.name for each in _parameters(type(library(**fixed))) if each.default is not each.empty]
    raise unknown(name, refused, [argument for argument in names if argument != refused])


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


def unknown(name: str, argument: str, names: Iterable[str]) -> InvalidArgument:
    """Return the error about an unknown argument, which lists the existing arguments, the most similar ones first."""
    likeness = difflib.SequenceMatcher(b=argument)

    def unlike(other: str) -> float:
        likeness.set_seq1(other)
        return -likeness.ratio()

    listed = ", ".join(sorted(names, key=unlike))
    return InvalidArgument(f"{name} takes no argument {argument!r}; it takes {listed or 'none'}")
