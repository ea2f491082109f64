"""Recipes by name and from files: the shipped YAML files, and their reading and writing; torch is not imported.

>>> read("digits", ["seed=1"]).seed
1
"""

from qffs.recipes.reading import (
    SUFFIXES,
    about,
    attempt,
    names,
    of_demo,
    of_network,
    of_quantization,
    read,
    text,
    to_yaml,
)

__all__ = [
    "SUFFIXES",
    "about",
    "attempt",
    "names",
    "of_demo",
    "of_network",
    "of_quantization",
    "read",
    "text",
    "to_yaml",
]
