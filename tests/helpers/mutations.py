"""Damage to files for tests, by a seed: bytes that change, and values of JSON that become others."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 10**30, 0.5, -1e308, float("nan"), float("inf"), "", "x", "\x00",
    "é" * 300, "\ud800", "../x", [], [[]], [None], [1, "x"], {}, {"": None}, {"tuple": [0]}, {"node": "x"},
)  # fmt: skip
"""Values of every type that JSON has."""


def of_bytes(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: bytes changed, cut off, left out, repeated, set to zero or put in."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 10))):
            start = chance.randrange(len(damaged) + 1)
            stop = min(len(damaged), start + chance.choice((1, 1, 4, 64, 1000)))
            match chance.randrange(6):
                case 0 | 1 if start < len(damaged):
                    damaged[start] = chance.randrange(256)
                case 2 if chance.random() < 0.3:
                    del damaged[start:]
                case 3:
                    del damaged[start:stop]
                case 4:
                    damaged[start:start] = damaged[start:stop]
                case 5:
                    damaged[start:stop] = bytes([chance.choice((0, 255))]) * (stop - start)
                case _:
                    damaged[start:start] = chance.randbytes(stop - start)
        yield bytes(damaged)


def of_json(value: Any, count: int, seed: int = 0) -> Iterator[Any]:
    """Yield damaged copies of plain data: a value replaced by one of another type, repeated, or left out."""
    chance = random.Random(seed)
    for _ in range(count):
        root = {"value": copy.deepcopy(value)}
        for _ in range(chance.choice((1, 1, 1, 3))):
            _damage(root, chance)
        yield root.get("value")


def _damage(root: dict[str, Any], chance: random.Random) -> None:
    """Damage one value of plain data in place; each depth is as likely as any other."""
    inner: Any = root
    while True:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = chance.choice(keys)
        below = inner[key]
        if not (isinstance(below, dict | list) and below) or (inner is not root and chance.random() < 0.2):
            break
        inner = below
    action = chance.randrange(6)
    if inner is not root and action == 0:
        del inner[key]
    elif inner is not root and action == 1 and isinstance(inner, list):
        inner.insert(key, copy.deepcopy(inner[key]))
    elif action == 2 and isinstance(inner, dict) and inner is not root:
        inner[str(chance.choice(VALUES))] = inner.pop(key)
    elif action == 3 and isinstance(below, int | float) and not isinstance(below, bool):
        inner[key] = chance.choice((-below, below + 1, below * 2**20, below - 1))
    else:
        inner[key] = copy.deepcopy(chance.choice(VALUES))
    if not root.get("value"):
        root["value"] = [root.get("value")]
