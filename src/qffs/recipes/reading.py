"""Reading of recipes: from a name or file, and the KEY=VALUE on a command line that replace values of the recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from qffs.errors import InvalidArgument
from qffs.files import read_text
from qffs.recipes.messages import Fault, unknown
from qffs.recipes.recipe import SPELLINGS, Recipe, Section, spelled
from qffs.recipes.yaml import Key, dump, parse

SHIPPED = files("qffs.recipes")
SUFFIXES = (".yaml", ".yml")
ABOUT = "# about: "
MOST = 2**20
"""The most characters of a file with a recipe."""
TEXTS = (str, str | None)
"""The types of keys whose values are texts, which are not read as YAML."""
OPEN = "model_arguments"
"""The section that may have any keys."""


def names() -> list[str]:
    """Return the names of the recipes that come with the library."""
    return sorted(each.name.removesuffix(".yaml") for each in SHIPPED.iterdir() if each.name.endswith(".yaml"))


def text(name_or_path: str) -> str:
    """Return the YAML of a shipped recipe by its name, or of a file by its path.

    Raises `InvalidArgument` if there is no such recipe, or if the file cannot be read.
    """
    if name_or_path in names():
        return (SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(os.path.expanduser(name_or_path))  # a path with an unknown user's home stays as it is
    if path.suffix not in SUFFIXES and len(path.parts) == 1:
        near = get_close_matches(name_or_path, names(), 1) or names()
        raise InvalidArgument(
            f"there is no recipe {name_or_path!r}; there is {', '.join(near)}, and a file ends in .yaml"
        )
    try:
        return read_text(path, MOST)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, ValueError):
        raise InvalidArgument(f"{path} is no text in UTF-8") from None


def about(name_or_path: str) -> str:
    """Return the description in the comments at the head of a recipe; an empty text without one."""
    lines = (line.removeprefix(ABOUT) for line in text(name_or_path).splitlines() if line.startswith(ABOUT))
    return next(lines, "")


RECONSTRUCTION_STEPS = 3000
"""The steps of a reconstruction of the whole network, where nobody says how many."""


def read(name_or_path: str, overrides: Sequence[str] = (), *, trust: bool = False) -> Recipe:
    """Return the recipe of a name or file, in which each ``key=value`` of the overrides replaces a value.

    trust: whether the file may name a function of any module as its model (see `qffs.recipes.trust`); an override may.

    Raises `InvalidArgument` with all mistakes, each with its line or override; for an unknown key it names the nearest
    keys.

    >>> read("digits", ["bits=3", "quantized.epochs=1"]).quantized.epochs
    1
    """
    return _or_raise(name_or_path, attempt(name_or_path, overrides, trust=trust))


def of_network(network: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the default recipe with a network and with overrides; raises as `read` does.

    >>> of_network("cifar_resnet20", ["bits=3"]).model
    'cifar_resnet20'
    """
    return _or_raise(network, _attempt({"model": network}, {}, overrides))


def of_demo(overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of the digits with overrides, changed so that it suits any data; raises as `read` does.

    Steps and augmentation are the defaults for the data. A network with ``weights`` gets 2 epochs in full precision.

    >>> of_demo().steps, of_demo(["weights=w.safetensors"]).full_precision.epochs
    (None, 2)
    """
    usual = ["steps=null", "augmentation=[]"]
    recipe = read("digits", [*usual, *overrides])
    return read("digits", [*usual, "full_precision.epochs=2", *overrides]) if recipe.weights else recipe


def of_quantization(
    network: str,
    data: str,
    weights: str | None,
    overrides: Sequence[str] = (),
    *,
    images: int = 1024,
    reconstruct: bool | None = None,
) -> Recipe:
    """Return the recipe that quantizes a network for data and trains it for no epoch, with overrides.

    images: how many are used for it; reconstruct: whether the network is reconstructed, for `RECONSTRUCTION_STEPS` if
    the overrides do not say it; by default, unless they say that it is trained. Raises as `read` does, and where the
    overrides contradict ``reconstruct``.

    >>> recipe = of_quantization("digits_net", "digits", None, ["bits=3"])
    >>> recipe.quantized.epochs, recipe.calibration_images, recipe.reconstruction_steps
    (0, 1024, 3000)
    """
    usual = [f"data={data}", f"weights={weights or 'null'}", "full_precision.epochs=0", "quantized.epochs=0"]
    changes = [*usual, f"calibration_images={images}", *overrides]
    recipe = of_network(network, changes)
    if any(each.startswith("reconstruction_steps=") for each in overrides):
        steps = recipe.reconstruction_steps
        if reconstruct is not None and reconstruct != bool(steps):
            option = "--reconstruct" if reconstruct else "--no-reconstruct"
            raise InvalidArgument(f"reconstruction_steps={steps} contradicts {option}: give one of them")
        return recipe
    wanted = not recipe.quantized.epochs if reconstruct is None else reconstruct
    return of_network(network, [*changes, f"reconstruction_steps={RECONSTRUCTION_STEPS if wanted else 0}"])


def _or_raise(name: str, attempt: Recipe | list[str]) -> Recipe:
    if isinstance(attempt, Recipe):
        return attempt
    raise InvalidArgument(f"{name}, {'; '.join(attempt)}")


def attempt(name_or_path: str, overrides: Sequence[str] = (), *, trust: bool = False) -> Recipe | list[str]:
    """Return the recipe as `read` does, or a list of its mistakes, one sentence each.

    Raises `InvalidArgument` if there is no such recipe, or if the file cannot be read.
    """
    recipe = text(name_or_path)
    try:
        values, lines = parse(recipe)
    except InvalidArgument as error:
        return [str(error)]
    if not isinstance(values, dict):
        return ["line 1: a recipe is a mapping, such as `data: digits`"]
    result = _attempt(values, {key: f"line {line}" for key, line in lines.items()}, overrides)
    typed = {override.partition("=")[0].strip() for override in overrides}
    if trust or not isinstance(result, Recipe):
        return result
    reasons = [
        f"line {lines.get((key,), 1)}: {key} {reason}"
        for key, name in (("model", result.model), ("teacher", result.teacher or ""))
        if key not in typed and (reason := _distrusted(key, name)) is not None
    ]
    return reasons or result


def _distrusted(key: str, name: str) -> str | None:
    if ":" not in name:
        return None
    from qffs.recipes.trust import distrusted  # imported here because few recipes need it

    return distrusted(name, key)


def _attempt(values: dict[str, Any], origins: dict[Key, str], overrides: Sequence[str]) -> Recipe | list[str]:
    values = spelled(values)
    origins = {tuple(SPELLINGS.get(part, part) for part in key): origin for key, origin in origins.items()}
    mistakes = []
    for override in overrides:
        try:
            origins[_put(values, override)] = override
        except InvalidArgument as error:
            mistakes.append(str(error))
    attempt = Recipe.attempt(values)
    if isinstance(attempt, Recipe):
        return mistakes or attempt
    return mistakes + [_sentence(fault, origins) for fault in attempt]


def to_yaml(recipe: Recipe) -> str:
    """Return the YAML of a recipe with all its keys; `read` returns an equal recipe from it."""
    return dump(recipe.model_dump())


def _put(values: dict[str, Any], override: str) -> Key:
    """Put the value of an override under its key into ``values``, and return the key."""
    key, equals, value = override.partition("=")
    first, dot, rest = (SPELLINGS.get(part, part) for part in key.strip().partition("."))
    if not equals or not first:
        raise InvalidArgument(f"{override}: a change of a recipe is written key=value, such as bits=3")
    field = Recipe.model_fields.get(first)
    if field is None:
        raise InvalidArgument(f"{override}: {Fault((first,), unknown(Recipe, (first,)))}")
    if not dot:
        values[first] = _value(override, value, any_text=field.annotation in TEXTS)
        return (first,)
    if first != OPEN and not isinstance(field.default, Section):
        raise InvalidArgument(f"{override}: {first} has no keys: write its whole value, such as {first}=...")
    inner = values.setdefault(first, {} if first == OPEN else field.default.model_dump())
    if isinstance(inner, dict):  # the recipe's validation refuses any other value
        inner[rest] = _value(override, value)
    return (first, rest)


def _value(override: str, text: str, any_text: bool = False) -> Any:
    """Return the value of a text as YAML reads it; with ``any_text`` the text, unless it is empty or null."""
    if any_text and text not in {"", "null", "~"}:
        return text
    try:
        return parse(text)[0]
    except InvalidArgument as error:
        raise InvalidArgument(f"{override}: {str(error).removeprefix('line 1: ')}") from None


def _sentence(fault: Fault, origins: dict[Key, str]) -> str:
    """Return a fault as a sentence after the line or override that has its key or the key's section."""
    sections = (fault.key[:length] for length in range(len(fault.key), 0, -1))
    origin = next((origins[key] for key in sections if key in origins), None)
    return f"{origin}: {fault}" if origin else str(fault)
