"""Stand-ins stay in the tracing: nothing that the code keeps holds one, and other threads never see one."""

from __future__ import annotations

import functools
import gc
import re
import threading
from collections import deque
from enum import Enum, IntEnum
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotTraceable
from qffs.graph.trace.trace import trace


class Pair(NamedTuple):
    """A tuple with names."""

    first: Any
    second: Any


class Holder:
    """An object with attributes."""

    kept: Any = None


LIST: list[Any] = []
DICT: dict[Any, Any] = {}
DEQUE: deque[Any] = deque()
SET: set[Any] = set()
HOLDER = Holder()


@functools.lru_cache(maxsize=2)
def few(n: int) -> Tensor:
    return torch.ones(n)


@functools.cache
def unbounded(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float32) + torch.zeros(n)


class Keeps(nn.Module):
    """Code that keeps values wherever code can."""

    shared: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.memo: dict[Any, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.linear(x))
        LIST.extend([h, (h, [h]), Pair(h, {"h": h})])
        DEQUE.append(h)
        SET.add(h.shape[1])
        DICT[h.shape[1]] = h
        HOLDER.kept = lambda: h
        self.features = [h]
        if "table" not in self.shared:
            self.shared["table"] = torch.ones(h.shape[1])
        if 4 not in self.memo:
            self.memo[4] = torch.arange(h.shape[1])
        return h + few(h.shape[1]) + unbounded(4) + self.shared["table"] + self.memo[4]


def forget() -> None:
    for container in (LIST, DICT, DEQUE, SET, Keeps.shared):
        container.clear()  # type: ignore[attr-defined]
    few.cache_clear()
    unbounded.cache_clear()


def stand_ins() -> list[str]:
    gc.collect()
    return [type(each).__name__ for each in gc.get_objects() if issubclass(type(each), fx.Proxy)]


def test_what_the_code_keeps_holds_values_after_the_tracing() -> None:
    forget()
    model, x = Keeps(), torch.randn(3, 4)
    traced = trace(model, x)
    assert stand_ins() == []
    held = [LIST[0], LIST[1][0], LIST[1][1][0], LIST[2].first, LIST[2].second["h"], DEQUE[0], HOLDER.kept()]
    assert all(type(each) is Tensor for each in [*held, Keeps.shared["table"], *DICT.values()])
    assert {type(each) for each in (*SET, *DICT)} == {int}
    assert vars(model).keys() == vars(Keeps()).keys()
    assert model.memo == {}
    assert torch.equal(traced(x), model(x))
    assert Keeps()(x[:1]).shape == (1, 4)


@pytest.mark.slow
def test_a_refused_network_leaves_no_stand_in_either() -> None:
    class Decides(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    class Late(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            h = super().forward(x)
            return h if h.sum() > 0 else -h

    for kind in (Decides, Late):
        forget()
        with pytest.raises(NotTraceable, match="depends on the data"):
            trace(kind(), torch.randn(3, 4))
        assert stand_ins() == []
        assert all(type(each) is not fx.Proxy for each in [*DEQUE, *DICT.values(), *Keeps.shared.values()])


@pytest.mark.parametrize("key", [lambda h: h.shape[1], lambda h: (h.size(-1), h.dtype), lambda h: h.shape])
def test_a_size_is_one_key_however_it_is_spelled(key: Any) -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables: dict[Any, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(x)
            if key(h) not in self.tables:
                self.tables[key(h)] = torch.ones(h.shape[1])
            return h + self.tables[key(h)] + few(h.shape[1])

    few.cache_clear()
    model, x = Tables(), torch.randn(7, 4)
    assert torch.equal(trace(model, x)(x), Tables()(x))
    few(4), model(x)  # now they know the plain number
    assert torch.equal(trace(model, x)(x), Tables()(x))
    assert few.cache_info().currsize == 1


def test_a_table_of_sizes_is_read_at_the_size_of_the_example_alone() -> None:
    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * {4: 2.0, 8: 3.0}.get(x.shape[1], 1.0)

    for size, factor in ((4, 2.0), (5, 1.0)):
        x = torch.randn(3, size)
        traced = trace(Table(), x)
        assert torch.equal(traced(x[:1]), factor * torch.relu(x[:1]))
        with pytest.raises(InvalidArgument, match=r"size|shape"):
            traced(torch.randn(3, 8))


class Head(Enum):
    """Names of outputs."""

    FIRST = 1


class Text(str, Enum):  # noqa: UP042, it prints otherwise
    """Names of outputs that are strings."""

    FIRST = "first"


@pytest.mark.parametrize("key", [Text.FIRST, IntEnum("Number", "FIRST").FIRST, (None, True, 1.5, Text.FIRST), 4])
def test_keys_of_a_dictionary_are_written_as_plain_values(key: Any) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[Any, Tensor]:
            return {x.shape[1] if key == 4 else key: torch.relu(x)}

    x = torch.randn(3, 4)
    assert torch.equal(trace(Named(), x)(x)[key], torch.relu(x))


@pytest.mark.parametrize("key", [Head.FIRST, (1, Head.FIRST), torch.float32])
def test_a_key_that_cannot_be_written_is_named(key: Any) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[Any, Tensor]:
            return {key: torch.relu(x)}

    with pytest.raises(NotTraceable, match=rf"a dictionary with the key {re.escape(repr(key))}: use a string$"):
        trace(Named(), torch.randn(3, 4))


def test_tables_are_plain_while_the_code_runs_and_calls_in_the_graph() -> None:
    kinds = []

    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            table = torch.arange(4)
            kinds.append(type(table))
            return torch.relu(x) + table

    traced = trace(Table(), torch.randn(3, 4))
    assert set(kinds) == {Tensor}
    assert next(node.target for node in traced.graph.nodes if node.op == "call_function") is torch.arange
    assert not traced.state_dict()


ROWS = torch.arange(400.0).view(100, 4)


@pytest.mark.parametrize(
    "part",
    [
        lambda rows, n: rows[:n],
        lambda rows, n: rows[..., :n, :],
        lambda rows, n: rows.narrow(0, 0, n),
        lambda rows, n: torch.narrow(rows, dim=0, start=0, length=n),
        lambda rows, n: rows[0].expand(n, -1),
    ],
)
def test_a_part_of_a_plain_table_is_as_long_as_the_batch(part: Any) -> None:
    class Attribute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows: Tensor | None = None
            self.set()

        def set(self) -> None:
            self.rows = ROWS

        def forward(self, x: Tensor) -> Tensor:
            if self.rows is None:
                self.rows = ROWS.relu()
            return torch.relu(x) + part(self.rows, x.size(0))

    class Late(Attribute):
        def set(self) -> None:
            pass

    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + part(ROWS, x.shape[0])

    x = torch.randn(7, 4)
    for kind in (Attribute, Late, Outside):
        for used in (False, True):
            model = kind()
            if used:
                model(x)
            traced = trace(model, x)
            assert all(torch.equal(traced(x[:n]), kind()(x[:n])) for n in (1, 2, 7))
    assert "__getitem__" not in vars(Tensor)


def constant(x: Tensor, h: Tensor) -> Tensor:
    table = torch.arange(4.0)
    table[:] = x[0]
    return h + table


def part_of_a_table(x: Tensor, h: Tensor) -> Tensor:
    part = WRITTEN[: x.size(0)]
    part.copy_(h)
    return h + WRITTEN[: x.size(0)]


def narrow_part(x: Tensor, h: Tensor) -> Tensor:
    part = WRITTEN.narrow(0, 0, x.size(0))
    part += h
    return h + part


WRITTEN = torch.zeros(100, 4)


@pytest.mark.parametrize("write", [constant, part_of_a_table, narrow_part])
def test_values_that_are_written_into_a_plain_tensor_are_refused(write: Any) -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return write(x, torch.relu(x))

    with pytest.raises(NotTraceable, match=r"writes values of the network into a plain tensor.*test_proxy.py, line"):
        trace(Writes(), torch.randn(3, 4))


def test_other_threads_run_as_ever_while_a_network_is_traced() -> None:
    network, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)).eval(), torch.randn(3, 4)
    expected, faults, traced = network(x), list[str](), threading.Event()
    inside = threading.Event()

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            rounds.wait(10)
            return torch.relu(x)

    rounds = threading.Event()

    def other() -> None:
        inside.wait(10)
        made = [torch.zeros(2), torch.arange(3), torch.full((2,), 1.0)]
        if not all(type(each) is Tensor and torch.is_tensor(each) for each in made):
            faults.append("functions")
        if type(network[0].weight) is not nn.Parameter or not torch.equal(network(x), expected):
            faults.append("modules")
        if fx._symbolic_trace.is_fx_tracing():  # a compiled network refuses to run then
            faults.append("flag")
        rounds.set()
        traced.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    trace(Waits(), x)
    traced.set()
    thread.join()
    assert faults == []


def test_a_function_that_the_code_keeps_is_that_of_torch_after_the_tracing() -> None:
    kept = []

    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(torch.zeros)  # as `from torch import zeros` does in a file that is imported here
            return torch.relu(x)

    trace(Keeps(), torch.randn(3, 4))
    assert {type(zeros(2)) for zeros in kept} == {Tensor}


def test_several_threads_trace_at_a_time() -> None:
    faults = []

    def read() -> None:
        try:
            for _ in range(3):
                model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4)
                assert torch.equal(trace(model, x)(x), model(x))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
