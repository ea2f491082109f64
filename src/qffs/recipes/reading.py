"""From the name or file of a recipe, and what is said otherwise on the command line, to the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from qffs.errors import InvalidArgument
from qffs.recipes.messages import Fault, section_of, unknown
from qffs.recipes.recipe import SPELLINGS, Recipe, spelled
from qffs.recipes.yaml import Place, dump, parse

SHIPPED = files("qffs.recipes")
SUFFIXES = (".yaml", ".yml")
ABOUT = "# about: "
TEXTS = (str, str | None)
"""The types of keys whose values are taken as they are typed."""
OPEN = "model_arguments"
"""The key whose own keys are the user's."""


def names() -> list[str]:
    """The recipes that come with the library."""
    return sorted(each.name.removesuffix(".yaml") for each in SHIPPED.iterdir() if each.name.endswith(".yaml"))


def text(name_or_path: str) -> str:
    """The YAML of a shipped recipe by its name, or of a file by its path; raises `InvalidArgument`."""
    if name_or_path in names():
        return (SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path).expanduser()
    if path.suffix not in SUFFIXES and len(path.parts) == 1:
        near = get_close_matches(name_or_path, names(), 1) or names()
        raise InvalidArgument(
            f"there is no recipe {name_or_path!r}; there is {', '.join(near)}, and a file ends in .yaml"
        )
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, ValueError):
        raise InvalidArgument(f"{path} is no text in UTF-8") from None


def about(name_or_path: str) -> str:
    """What the comments at the head of a recipe say it is about; nothing where they do not."""
    lines = (line.removeprefix(ABOUT) for line in text(name_or_path).splitlines() if line.startswith(ABOUT))
    return next(lines, "")


def read(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a name or file, with each ``key=value`` of the overrides in place of what it says.

    Raises `InvalidArgument` with all that is wrong, each with its line or override, and the nearest keys of those
    that there are not.

    >>> read("digits", ["bits=3", "quantized.epochs=1"]).quantized.epochs
    1
    """
    return _or_raise(name_or_path, attempt(name_or_path, overrides))


def of_network(network: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a network alone, with what overrides say; raises as `read` does.

    >>> of_network("cifar_resnet20", ["bits=3"]).model
    'cifar_resnet20'
    """
    return _or_raise(network, _made({"model": network}, {}, overrides))


def _or_raise(name: str, made: Recipe | list[str]) -> Recipe:
    if isinstance(made, Recipe):
        return made
    raise InvalidArgument(f"{name}, {'; '.join(made)}")


def attempt(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe | list[str]:
    """As `read`, but all that is wrong inside the recipe is returned, sentence by sentence."""
    given = text(name_or_path)
    try:
        values, lines = parse(given)
    except InvalidArgument as error:
        return [str(error)]
    if not isinstance(values, dict):
        return ["line 1: a recipe is a mapping, such as `data: digits`"]
    return _made(values, {place: f"line {line}" for place, line in lines.items()}, overrides)


def _made(values: dict[str, Any], origins: dict[Place, str], overrides: Sequence[str]) -> Recipe | list[str]:
    values = spelled(values)
    origins = {tuple(SPELLINGS.get(key, key) for key in place): origin for place, origin in origins.items()}
    wrong = []
    for override in overrides:
        try:
            origins[_put(values, override)] = override
        except InvalidArgument as error:
            wrong.append(str(error))
    made = Recipe.attempt(values)
    if isinstance(made, Recipe):
        return wrong or made
    return wrong + [_sentence(fault, origins) for fault in made]


def to_yaml(recipe: Recipe) -> str:
    """The text of a recipe with all its keys, which `read` reads back as the same recipe."""
    return dump(recipe.model_dump())


def _put(values: dict[str, Any], override: str) -> Place:
    """Put the value of an override in its place among ``values``, and return the place."""
    key, equals, given = override.partition("=")
    first, dot, rest = (SPELLINGS.get(part, part) for part in key.strip().partition("."))
    if not equals or not first:
        raise InvalidArgument(f"{override}: what is said beside a recipe is written key=value, as in bits=3")
    field = Recipe.model_fields.get(first)
    if field is None:
        raise InvalidArgument(f"{override}: {Fault((first,), unknown(Recipe, (first,)))}")
    if not dot:
        values[first] = _value(override, given, any_text=field.annotation in TEXTS)
        return (first,)
    if first != OPEN and section_of(field) is None:
        raise InvalidArgument(f"{override}: {first} is said as a whole, as in {first}=...")
    inner = values.setdefault(first, {} if first == OPEN else field.default.model_dump())
    if isinstance(inner, dict):  # what is no mapping will be refused as such
        inner[rest] = _value(override, given)
    return (first, rest)


def _value(override: str, given: str, any_text: bool = False) -> Any:
    """The value of a text as YAML reads it; where any text will do, the text itself, but for null and nothing."""
    if any_text and given not in {"", "null", "~"}:
        return given
    try:
        return parse(given)[0]
    except InvalidArgument as error:
        raise InvalidArgument(f"{override}: {str(error).removeprefix('line 1: ')}") from None


def _sentence(fault: Fault, origins: dict[Place, str]) -> str:
    """A fault after the line or override that said the key, or the section it is missing from."""
    places = (fault.key[:length] for length in range(len(fault.key), 0, -1))
    origin = next((origins[place] for place in places if place in origins), None)
    return f"{origin}: {fault}" if origin else str(fault)
