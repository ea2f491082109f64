"""Messages about wrong values of a pydantic model: pydantic finds the errors, and the types say what is allowed."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

Key = tuple[str, ...]

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
BOUNDS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
SHOWN = 60
"""The most characters of a wrong value that a message shows."""


class Fault(NamedTuple):
    """A mistake: a key, and the rest of the sentence that begins with the key."""

    key: Key
    text: str

    def __str__(self) -> str:
        return f"{'.'.join(self.key)} {self.text}"


def refusal(faults: Sequence[Fault]) -> PydanticCustomError:
    """Return the error that a model's validator raises for faults, whose keys start at the model."""
    return PydanticCustomError("faults", "{text}", {"faults": faults, "text": "; ".join(map(str, faults))})


def faults_of(model: type[BaseModel], values: Mapping[Any, Any], error: ValidationError) -> list[Fault]:
    """Return one fault per key, in the order of pydantic's errors."""
    faults: dict[Key, Fault] = {}
    for each in error.errors(include_url=False):
        for fault in _faults(model, values, each):
            faults.setdefault(fault.key, fault)
    return list(faults.values())


def _faults(model: type[BaseModel], values: Mapping[Any, Any], error: ErrorDetails) -> Iterator[Fault]:
    kind, parts = error["type"], tuple(map(str, error["loc"]))
    if kind == "faults":
        yield from (Fault(parts + fault.key, fault.text) for fault in error["ctx"]["faults"])
        return
    if kind in {"extra_forbidden", "invalid_key"}:
        yield Fault(parts, unknown(model, parts))
        return
    field, key = _field(model, parts)
    if kind == "missing":
        yield Fault(key, f"is missing: it must be {allowed(field)}")
        return
    value: Any = values
    for part in key:
        value = value[part]
    yield Fault(key, f"must be {allowed(field)}, not {shown(value)}")


def _field(model: type[BaseModel], parts: Key) -> tuple[FieldInfo, Key]:
    """Return the field of a pydantic location, and its key, without union members and indices at the end."""
    field = model.model_fields[parts[0]]
    section = section_of(field)
    if section is None or len(parts) == 1:
        return field, parts[:1]
    inner, key = _field(section, parts[1:])
    return inner, parts[:1] + key


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field whose value is a section; None for other fields."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def keys_of(model: type[BaseModel]) -> list[Key]:
    """Return all keys of a model; the keys of a section come after the section's name."""
    keys: list[Key] = []
    for name, field in model.model_fields.items():
        section = section_of(field)
        keys += [(name,), *((name, *key) for key in (keys_of(section) if section else []))]
    return keys


def unknown(model: type[BaseModel], key: Key) -> str:
    """Return the sentence that there is no such key, with the keys of the same or a similar name."""
    keys = keys_of(model)
    siblings = [each for each in keys if each[:-1] == key[:-1]]
    elsewhere = [each for each in keys if len(each) != len(key)]
    near = [each for each in elsewhere if each[-1] == key[-1]] + _similar(key, siblings) or _similar(key, elsewhere)
    if near:
        return f"is no key; did you mean {_either(['.'.join(each) for each in near])}?"
    return f"is no key; there are {', '.join(each[-1] for each in siblings)}"


def _similar(key: Key, keys: Sequence[Key]) -> list[Key]:
    names = get_close_matches(key[-1], {each[-1] for each in keys})
    return [each for name in names for each in keys if each[-1] == name]


def allowed(annotation: Any) -> str:
    """Return a phrase for the values that a type or field takes; a text in its annotations is that phrase.

    >>> from pydantic import Field
    >>> allowed(Annotated[int, Field(ge=1)] | None)
    'a whole number of at least 1, or null'
    """
    if isinstance(annotation, FieldInfo):
        return _annotated(annotation.annotation, annotation.metadata)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(parts[0], parts[1:])
    if origin is Literal:
        return _either(parts)
    if origin in {Union, types.UnionType}:
        return ", ".join(map(allowed, parts[:-1])) + f", or {allowed(parts[-1])}"
    if origin is list:
        return f"a list, each {allowed(parts[0])}" if get_args(parts[0]) else f"a list of {allowed(parts[0])[2:]}s"
    if origin is dict:
        return "a mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with keys such as {', '.join(list(annotation.model_fields)[:3])}"
    return WORDS[annotation]


def _annotated(annotation: Any, metadata: Sequence[Any]) -> str:
    flat = [inner for each in metadata for inner in (each.metadata if isinstance(each, FieldInfo) else [each])]
    texts = [each for each in flat if isinstance(each, str)]
    if texts:
        return texts[0]
    bounds = [
        f"{words} {_number(getattr(each, name))}"
        for each in flat
        for name, words in BOUNDS.items()
        if hasattr(each, name)
    ]
    return " ".join([allowed(annotation), " and ".join(bounds)]).strip()


def _number(bound: float) -> str:
    power = math.log2(bound) if bound > 2**20 else 0.5
    return f"2^{power:.0f}" if power.is_integer() else str(bound)


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def shown(value: Any) -> str:
    """Return a value as YAML's flow style writes it, cut to `SHOWN` characters.

    >>> shown({"p": None})
    '{"p": null}'
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
