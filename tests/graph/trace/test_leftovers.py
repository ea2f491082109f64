"""What outlives the tracing behaves as its value, wherever the code has put it."""

from __future__ import annotations

import contextvars
import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qffs.graph.trace.leftovers import Leftover
from qffs.graph.trace.trace import trace
from qffs.graph.trace.tracer import Tracer


class Slots:
    """An object without a dictionary."""

    __slots__ = ("kept",)


@dataclass(frozen=True, slots=True)
class Frozen:
    """An object that nobody may change."""

    kept: Any


Keep = tuple[Callable[[Any], None], Callable[[], Any]]
"""How a value is put away, and how it is read."""


def in_slots() -> Keep:
    slots = Slots()
    return lambda value: setattr(slots, "kept", value), lambda: slots.kept


def in_a_context() -> Keep:
    variable = contextvars.ContextVar[Any]("kept")
    return lambda value: variable.set(value) and None, variable.get


def in_an_array() -> Keep:
    array = np.empty(1, dtype=object)
    return lambda value: array.__setitem__(0, value), lambda: array[0]


def cycle(value: Any) -> Iterator[Any]:
    while True:
        yield value


def made(make: Callable[[Any], Any], read: Callable[[Any], Any]) -> Keep:
    held: list[Any] = []
    return lambda value: held.append(make(value)), lambda: read(held[0])


KEPT: dict[str, Callable[[], Keep]] = {
    "slots": in_slots,
    "context": in_a_context,
    "array": in_an_array,
    "partial": lambda: made(lambda value: partial(copy.copy, value), lambda held: held.args[0]),
    "default": lambda: made(lambda value: lambda table=value: table, lambda held: held()),
    "generator": lambda: made(cycle, next),
    "frozenset": lambda: made(lambda value: frozenset([value]), lambda held: next(iter(held))),
    "dataclass": lambda: made(Frozen, lambda held: held.kept),
    "exception": lambda: made(ValueError, lambda held: held.args[0]),
    "slice": lambda: made(lambda value: slice(value, None), lambda held: held.start),
    "method": lambda: made(lambda value: value.mul, lambda held: held(1)),
}


class Table(nn.Module):
    """A network that makes a table on the first call and keeps it outside of itself."""

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.put, self.get = keep

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.linear(x))
        if not KNOWN:
            KNOWN.append(True)
            self.put(torch.ones(h.shape[1]) * 2)
        return h + self.get()


KNOWN: list[bool] = []


@pytest.mark.parametrize("kind", KEPT)
def test_what_the_code_keeps_is_its_value_wherever_it_is(kind: str) -> None:
    KNOWN.clear()
    model, x = Table(KEPT[kind]()), torch.randn(3, 3)
    for _ in range(2):  # the second reading finds what the first one has left
        assert torch.equal(trace(model, x)(x), torch.relu(model.linear(x)) + 2)
        assert torch.equal(model(x), torch.relu(model.linear(x)) + 2)


def test_a_leftover_keeps_nothing_else_of_the_tracing() -> None:
    KNOWN.clear()
    model = Table(in_slots())
    trace(model, torch.randn(3, 3))
    assert type(model.get()) is Leftover
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Tracer]


def leftover(value: Any) -> Any:
    made = Leftover()
    vars(made)["value"] = value
    return made


def test_everything_that_is_done_with_a_leftover_is_done_with_its_value() -> None:
    number = leftover(3)
    assert [number + 1, 7 - number, 2.0**number, -number, divmod(7, number)] == [4, 4, 8.0, -3, (2, 1)]
    assert [*range(number), number == 3, bool(leftover(0)), "abcd"[number]] == [0, 1, 2, True, False, "d"]
    assert f"{number:02d} {number}" == "03 3"
    for again in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
        assert type(again) is int
        assert again == 3
    table = leftover(torch.arange(4.0))
    assert [len(table), float(table[3]), table.sum().item(), 3.0 in table] == [4, 3.0, 6.0, True]
    assert torch.equal(torch.cat([torch.zeros(1), table[1:]]), table)
    assert torch.equal(torch.zeros(number), torch.zeros(3))
    assert type(torch.ones(4) + table) is type(table * 2) is Tensor
    table += 1
    assert torch.equal(table, torch.arange(1.0, 5.0))
