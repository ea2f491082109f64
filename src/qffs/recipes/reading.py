"""From the name or file of a recipe, and the values that replace its own on the command line, to the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from qffs.errors import InvalidArgument
from qffs.recipes.messages import Fault, unknown
from qffs.recipes.recipe import SPELLINGS, Recipe, Section, spelled
from qffs.recipes.yaml import Key, dump, parse

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
    return _or_raise(network, _attempt({"model": network}, {}, overrides))


def of_demo(overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the digits, with what overrides say, on any data; raises as `read` does.

    Steps and augmentation are left to what suits the data, and weights that are trained already get 2 epochs.

    >>> of_demo().steps, of_demo(["weights=w.safetensors"]).full_precision.epochs
    (None, 2)
    """
    usual = ["steps=null", "augmentation=[]"]
    recipe = read("digits", [*usual, *overrides])
    return read("digits", [*usual, "full_precision.epochs=2", *overrides]) if recipe.weights else recipe


def of_quantization(network: str, data: str, weights: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that quantizes a network for data and trains it for no epoch, with what overrides say.

    Raises as `read` does.

    >>> of_quantization("digits_net", "digits", None, ["bits=3"]).quantized.epochs
    0
    """
    untrained = [f"data={data}", f"weights={weights or 'null'}", "full_precision.epochs=0", "quantized.epochs=0"]
    return of_network(network, [*untrained, *overrides])


def _or_raise(name: str, attempt: Recipe | list[str]) -> Recipe:
    if isinstance(attempt, Recipe):
        return attempt
    raise InvalidArgument(f"{name}, {'; '.join(attempt)}")


def attempt(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe | list[str]:
    """As `read`, but all that is wrong inside the recipe is returned, sentence by sentence."""
    recipe = text(name_or_path)
    try:
        values, lines = parse(recipe)
    except InvalidArgument as error:
        return [str(error)]
    if not isinstance(values, dict):
        return ["line 1: a recipe is a mapping, such as `data: digits`"]
    return _attempt(values, {key: f"line {line}" for key, line in lines.items()}, overrides)


def _attempt(values: dict[str, Any], origins: dict[Key, str], overrides: Sequence[str]) -> Recipe | list[str]:
    values = spelled(values)
    origins = {tuple(SPELLINGS.get(part, part) for part in key): origin for key, origin in origins.items()}
    wrong = []
    for override in overrides:
        try:
            origins[_put(values, override)] = override
        except InvalidArgument as error:
            wrong.append(str(error))
    attempt = Recipe.attempt(values)
    if isinstance(attempt, Recipe):
        return wrong or attempt
    return wrong + [_sentence(fault, origins) for fault in attempt]


def to_yaml(recipe: Recipe) -> str:
    """The text of a recipe with all its keys, which `read` reads back as the same recipe."""
    return dump(recipe.model_dump())


def _put(values: dict[str, Any], override: str) -> Key:
    """Put the value of an override under its key into ``values``, and return the key."""
    key, equals, value = override.partition("=")
    first, dot, rest = (SPELLINGS.get(part, part) for part in key.strip().partition("."))
    if not equals or not first:
        raise InvalidArgument(f"{override}: a change of a recipe is written key=value, as in bits=3")
    field = Recipe.model_fields.get(first)
    if field is None:
        raise InvalidArgument(f"{override}: {Fault((first,), unknown(Recipe, (first,)))}")
    if not dot:
        values[first] = _value(override, value, any_text=field.annotation in TEXTS)
        return (first,)
    if first != OPEN and not isinstance(field.default, Section):
        raise InvalidArgument(f"{override}: {first} has no keys of its own: write its whole value, as in {first}=...")
    inner = values.setdefault(first, {} if first == OPEN else field.default.model_dump())
    if isinstance(inner, dict):  # what is no mapping will be refused as such
        inner[rest] = _value(override, value)
    return (first, rest)


def _value(override: str, text: str, any_text: bool = False) -> Any:
    """The value of a text as YAML reads it; where any text will do, the text itself, but for null and nothing."""
    if any_text and text not in {"", "null", "~"}:
        return text
    try:
        return parse(text)[0]
    except InvalidArgument as error:
        raise InvalidArgument(f"{override}: {str(error).removeprefix('line 1: ')}") from None


def _sentence(fault: Fault, origins: dict[Key, str]) -> str:
    """A fault after the line or override that said the key, or the section it is missing from."""
    sections = (fault.key[:length] for length in range(len(fault.key), 0, -1))
    origin = next((origins[key] for key in sections if key in origins), None)
    return f"{origin}: {fault}" if origin else str(fault)
