"""The structures of the C functions as classes of ctypes, made from the very lines that define them in C."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}


def read(source: str) -> dict[str, type[ctypes.Structure]]:
    """Return the structures that a C file of this folder defines, by name, in its order.

    A pointer to a structure, or to double, has its type; any other is a plain address. A structure may hold others.

    >>> [name for name, _ in read("layer.h")["input"]._fields_]
    ['values', 'index', 'levels', 'scale']
    """
    text = re.sub(r"//.*", "", (HERE / source).read_text(encoding="utf-8"))
    structures: dict[str, type[ctypes.Structure]] = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL):
        fields = [field for line in body.split(";")[:-1] for field in _fields(line.split(), structures)]
        structures[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structures


def _fields(words: list[str], structures: dict[str, type[ctypes.Structure]]) -> list[tuple[str, type]]:
    """Return the fields of one declaration, as ``const double *charged`` or ``int64_t steps, images``."""
    kind, *names = words[words[0] == "const" :]
    known: dict[str, type] = {**NUMBERS, **structures}
    fields: list[tuple[str, type]] = []
    for name in names:
        field = name.strip("*,")
        if not name.startswith("*"):
            fields.append((field, known[kind]))
        elif kind in structures or kind == "double":
            fields.append((field, ctypes.POINTER(known[kind])))
        else:
            fields.append((field, ctypes.c_void_p))
    return fields
