"""Layers that wait, against the same computed one by one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qffs.functional import max_pool as reference
from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler as native
from qffs.kernels.cpu import queue as waiting
from qffs.kernels.cpu.max_pool import available, count, max_pool
from qffs.kernels.cpu.queue import Kept, Pending, Queue
from qffs.kernels.layer import Neurons, Projection, computed
from qffs.kernels.neuron import enqueue
from qffs.method import FiringRule

STEPS, IMAGES = 6, 3
CHARGE = (0.25, 0.25, 0.25, 0.25, 0.0, 0.0)
RULE = FiringRule(precharge=0.5)
THETA = torch.tensor(0.5, dtype=torch.float64)


@pytest.fixture(autouse=True)
def compiler() -> None:
    if not native.available(torch.float64, torch.device("cpu")):
        pytest.skip("nothing can be compiled here")


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in ((4, 12), (12, 12), (12, 12), (12, 5))]
    for layer in convolutions:
        nn.init.uniform_(layer.get_parameter("weight"), -0.5, 0.7)
    return [layer.double() for layer in convolutions]


def first(queue: Queue, memory_format: torch.memory_format = torch.channels_last) -> SparseSteps | Pending:
    """Neurons that an analog input charges."""
    torch.manual_seed(1)
    analog = (4 * torch.rand(IMAGES, 4, 7, 6, dtype=torch.float64)).contiguous(memory_format=memory_format)
    return enqueue(queue, Neurons([], analog, CHARGE, THETA, 3, RULE))


def then(
    queue: Queue, before: SparseSteps | Pending, layer: nn.Module, *others: SparseSteps | Pending
) -> SparseSteps | Pending:
    """The neurons behind a layer, which add up others too."""
    through = Projection.of(before, layer)
    assert through is not None
    return enqueue(queue, Neurons([through, *others], None, CHARGE, THETA, 3, RULE))


def memory(levels: SparseSteps | Pending) -> int:
    """Where they lie."""
    assert isinstance(levels, Pending)
    return levels.unfilled.values.data_ptr()


def held(levels: SparseSteps | Pending) -> Tensor:
    """What images hold after each step."""
    rows = computed(levels)
    return rows.values[rows.index]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_layers_that_wait_send_what_they_send_one_by_one(memory_format: torch.memory_format) -> None:
    found = []
    for at_once in (True, False):
        queue = Queue()
        signal = first(queue, memory_format)
        for layer in layers():
            before = signal if at_once else computed(signal)
            alike = layer.get_parameter("weight").shape[0] == before.empty_like.shape[1]
            signal = then(queue, before, layer, *([before] if alike else []))
        found.append(held(signal))
    assert torch.equal(*found)
    assert len(found[0].unique()) > 2


def test_layers_and_pooling_that_wait() -> None:
    found = []
    for at_once in (True, False):
        queue = Queue()
        one, two, *_ = layers()
        ready: Any = (lambda levels: levels) if at_once else computed
        signal = ready(then(queue, ready(first(queue)), one))
        for _ in range(2):
            signal = ready(max_pool(queue, signal, (2, 2), (1, 1), (1, 0)))
            signal = ready(then(queue, signal, two))
        found.append(held(signal))
    assert torch.equal(*found)
    assert len(found[0].unique()) > 2


def test_nothing_is_computed_before_it_is_looked_at() -> None:
    queue, called = Queue(), list[str]()
    levels = first(queue)
    assert isinstance(levels, Pending)
    queue.add(lambda _: called.append("after"), Kept())
    assert not called
    held(levels)
    assert called == ["after"]
    queue.run()
    assert called == ["after"]


def test_what_fails_is_not_called_again() -> None:
    queue = Queue()
    queue.add(lambda _: 1 // 0, Kept())
    with pytest.raises(ZeroDivisionError):
        queue.run()
    queue.run()


def test_what_nobody_reads_goes_with_its_queue() -> None:
    gc.disable()
    try:
        queue = Queue()
        levels = first(queue)
        gone = weakref.ref(queue)
        del queue, levels
        assert gone() is None
    finally:
        gc.enable()


def test_calls_run_when_they_keep_much_that_nobody_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, called = Queue(), list[int]()
    monkeypatch.setattr(waiting, "MOST_HELD", 100)
    for number, (size, alone) in enumerate(((1000, False), (60, True), (60, True), (60, True))):
        kept = Kept()
        kept.pointer(torch.zeros(size, dtype=torch.uint8), alone)
        queue.add(lambda _, number=number: called.append(number), kept)
        assert called == ([], [], [0, 1, 2], [0, 1, 2])[number]


def test_memory_in_pieces_that_are_too_small_goes() -> None:
    queue, called = Queue(), list[int]()
    for size in range(1000, 1010):
        room = queue.room(size)
        assert len(room) >= size
        queue.add(lambda _, size=size: called.append(size), Kept())
        queue.take_back(room)
        assert sum(map(len, queue._free)) < 2 * size + 2
    assert called[:2] == [1000, 1001]  # before what they wait to read went


def test_no_memory_is_free_when_levels_are_looked_at() -> None:
    queue = Queue()
    one, two, *_ = layers()
    signal = then(queue, then(queue, first(queue), one), two)
    assert queue._free
    held(signal)
    assert not queue._free


def test_large_rooms_hold_what_they_say() -> None:
    room = Queue().room(2**23 + 5)
    room.fill_(7)
    assert room.long().sum() == 7 * (2**23 + 5)


def test_memory_that_nobody_reads_is_used_again() -> None:
    queue = Queue()
    one, two, *_ = layers()
    a = then(queue, first(queue), one)
    b = then(queue, a, two)
    at = [memory(a), memory(b)]
    del a
    c = then(queue, b, two)
    assert at[0] != at[1]
    assert memory(c) == at[0]


def test_memory_of_what_was_looked_at_is_not_used_again() -> None:
    queue = Queue()
    one, two, *_ = layers()
    signal = then(queue, first(queue), one)
    values = held(signal), computed(signal).values
    kept = values[1].clone()
    signal = then(queue, signal, two)
    for _ in range(3):
        signal = then(queue, signal, two)
    held(signal)
    assert torch.equal(values[1], kept)


@pytest.mark.parametrize(
    "module", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((3, 2), (1, 3), (1, 0))], ids=str
)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_pooling(module: nn.MaxPool2d, memory_format: torch.memory_format) -> None:
    queue, given = Queue(), reference.window(module)
    assert given is not None
    levels = first(queue, memory_format)
    pooled = max_pool(queue, levels, *given)
    assert available(pooled)
    rows = computed(levels)
    expected = reference.max_pool(rows.values, *given)[rows.index]
    assert torch.equal(held(pooled), expected)
    assert len(expected.unique()) > 2
    assert torch.equal(held(max_pool(queue, rows, *given)), expected)


def test_pooling_in_one_dimension() -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 4, (5, 70, 11), dtype=torch.uint8)
    rows, queue = SparseSteps(values, torch.tensor([[0, 3], [1, 4]]), THETA), Queue()
    pooled = max_pool(queue, rows, (3,), (2,), (1,))
    assert torch.equal(held(pooled), reference.max_pool(values, (3,), (2,), (1,))[rows.index])


def test_windows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="a window of 9 does not fit 7 with a padding of 0"):
        max_pool(queue := Queue(), first(queue), (9, 9), (1, 1), (0, 0))
    assert not available(SparseSteps(torch.zeros(1, 2, 3, 4, 5, dtype=torch.uint8), torch.zeros(1, 1).long(), THETA))
    assert not available(SparseSteps(torch.zeros(1, 2, 3), torch.zeros(1, 1).long(), THETA))


# Threads

WORK = {"without synapses": 6 * 3 * 4 * 7 * 6, "convolution": 3 * 12 * 7 * 6 * 4 * 9, "pooling": 18 * 4 * 7 * 6}
"""Levels of all steps; multiply-adds of a forward pass; rows of levels that are read."""


@pytest.mark.parametrize("less", [0, 1])
@pytest.mark.parametrize("name", WORK)
def test_a_small_call_has_one_thread(name: str, less: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def noted(structure: type[Any]) -> Any:
        def make(*values: Any, **fields: Any) -> Any:
            call = structure(*values, **fields)
            numbers.append(call.threads)
            return call

        return make

    for structure in ("Layer", "Pooling"):
        monkeypatch.setattr(native, structure, noted(getattr(native, structure)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(waiting, "SMALL", WORK[name] + less)
    queue = Queue()
    levels = first(queue)
    if name == "convolution":
        then(queue, levels, layers()[0])
    elif name == "pooling":
        max_pool(queue, levels, (2, 2), (1, 1), (0, 0))
    assert numbers[-1] == (1 if less else 5)


def test_threads_change_no_pooling_and_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SMALL", 0)
    rows = computed(first(Queue()))
    results = []
    for number in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        results.append((held(max_pool(Queue(), rows, (3, 2), (1, 1), (1, 0))), count(rows)))
    (pooled, counts), (pooled_by_3, counts_by_3) = results
    assert torch.equal(pooled, pooled_by_3)
    assert torch.equal(counts, counts_by_3)
    assert counts.sum() > 0
