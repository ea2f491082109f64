"""Stand-ins that the code of a network has kept: their values take their place after the tracing."""

from __future__ import annotations

import functools
import gc
from collections import deque
from collections.abc import Mapping, Sequence
from types import CellType, FrameType
from typing import Any

from torch import fx


def put_values_back(stand_ins: Sequence[fx.Proxy], values: Mapping[fx.Node, Any]) -> None:
    """Put the value on the example into every container that still holds a stand-in after the tracing.

    So what the code of a network keeps for later (in a list, in a cache of `functools`, in a global) is what it would
    have kept when it ran on the example.
    """
    old: list[Any] = list(stand_ins)
    new: list[Any] = [values.get(each.node) for each in old]
    while old:
        by_id = {id(each): value for each, value in zip(old, new, strict=True)}
        holders = [
            each
            for each in gc.get_referrers(*old)
            if each is not old and each is not stand_ins and not isinstance(each, fx.Proxy)
        ]
        old, new = [], []
        for holder in holders:
            if isinstance(holder, tuple):  # its own holders come next
                parts = [by_id.get(id(part), part) for part in holder]
                old.append(holder)
                new.append(holder._make(parts) if hasattr(holder, "_make") else tuple(parts))
            else:
                _replace_in(holder, by_id)
        del holders


def _replace_in(holder: Any, by_id: Mapping[int, Any]) -> None:
    """Replace in a container, a cache or the attributes of an object the values that ``by_id`` has new ones for."""
    if isinstance(holder, (list, deque)):
        for position, value in enumerate(holder):
            if id(value) in by_id:
                holder[position] = by_id[id(value)]
    elif isinstance(holder, dict):
        for key, value in list(holder.items()):
            if id(key) in by_id:
                del holder[key]
            if id(key) in by_id or id(value) in by_id:
                holder[by_id.get(id(key), key)] = by_id.get(id(value), value)
    elif isinstance(holder, set):
        for value in [each for each in holder if id(each) in by_id]:
            holder.remove(value)
            holder.add(by_id[id(value)])
    elif isinstance(holder, CellType):
        holder.cell_contents = by_id.get(id(holder.cell_contents), holder.cell_contents)
    elif isinstance(holder, functools._lru_cache_wrapper):  # it does not show what it holds
        holder.cache_clear()
    elif not isinstance(holder, FrameType) and hasattr(holder, "__dict__"):
        _replace_in(vars(holder), by_id)
