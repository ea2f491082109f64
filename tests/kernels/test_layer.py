"""Events through synapses against the layer itself, computed on all images and steps."""

from __future__ import annotations

import ctypes
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.kernels import fire
from qffs.functional.sparse_steps import SparseSteps, changed
from qffs.kernels import layer as synapses
from qffs.kernels.cpu import compiler, memory_layout, neuron, queue
from qffs.kernels.cpu.max_pool import count
from qffs.kernels.layer import Projection
from qffs.method import FiringRule

CHARGE = (0.5, 0.5, 0.0, 0.0, 0.0, 0.0)
RULE = FiringRule(precharge=0.5)
ANY_MACHINE = tuple(option for option in compiler.OPTIONS if not option.startswith("-march"))

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(3, 20, 3, padding=1, bias=False), (3, 9, 7)),
    (nn.Conv2d(70, 64, 3, padding=1, bias=False), (70, 5, 6)),
    (nn.Conv2d(5, 130, 3, stride=2, padding=1, bias=False), (5, 8, 9)),
    (nn.Conv2d(8, 32, 1, stride=2, bias=False), (8, 7, 7)),
    (nn.Conv2d(2, 16, (5, 2), stride=(1, 3), padding=(0, 2), bias=False), (2, 9, 11)),
    (nn.Conv2d(4, 9, 3, stride=3, padding=4, bias=False), (4, 6, 6)),
    (nn.Conv1d(6, 33, 3, padding=1, bias=False), (6, 12)),
    (nn.Linear(150, 10, bias=False), (150,)),
    (nn.Linear(9, 96, bias=False), (9,)),
]


@pytest.fixture(autouse=True, params=["digits", "whole", "scattered"])
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In float32 as two digits; in lists as they are; or added where spikes arrive."""
    if not compiler.available(torch.float64, torch.device("cpu")):
        pytest.skip("nothing can be compiled here")
    monkeypatch.setattr(memory_layout, "NEAR", 2**40 if request.param == "scattered" else 0)
    if request.param == "whole":
        monkeypatch.setattr(compiler, "divided", lambda *_: False)
    return str(request.param)


def spikes(steps: int, images: int, shape: tuple[int, ...]) -> SparseSteps:
    """Levels that go up and down by one, of images that are silent at times and of one that is always."""
    level, active = torch.zeros(images, *shape), torch.rand(steps, images) < 0.7
    active[:, 0] = False
    levels = []
    for now in active:
        change = torch.randint(-1, 2, level.shape) * (torch.rand(level.shape) < 0.3)
        level = (level + change * now.view(-1, *[1] * len(shape))).clamp(0, 3)
        levels.append(level)
    dense = torch.stack(levels).to(torch.uint8)
    before = torch.cat([torch.zeros_like(dense[:1]), dense[:-1]])
    return changed(dense, (dense != before).flatten(2).any(-1), torch.tensor(0.375))


def sources(layer: Any) -> bytes:
    return ctypes.string_at(layer.sources, layer.source_count * ctypes.sizeof(compiler.Synapses))


def listed(monkeypatch: pytest.MonkeyPatch, *given: Any) -> int:
    """How many numbers the lists took in a call of `fire`: none where no synapses were left to the function."""
    sizes: list[int] = []
    library = compiler.library

    def noted(*which: Any) -> Any:
        found = library(*which)

        def size(layer: Any, known: bool) -> int:
            asked = sources(layer)
            number: int = found.scratch_size(layer, known)
            assert sources(layer) == asked, "asking for a size changed the layer"
            sizes.append(number)
            return number

        return SimpleNamespace(fire=found.fire, scratch_size=size)

    with monkeypatch.context() as patch:
        patch.setattr(compiler, "library", noted)
        fire(*given)
    return sizes[-1]


def projection(rows: SparseSteps, layer: nn.Module) -> Projection:
    found = Projection.of(rows, layer)
    assert found is not None
    return found


def eighths(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer with weights whose sums have no rounding."""
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randint(-8, 9, weight.shape) / 8)
    return layer.to(dtype)


def as_levels(rows: SparseSteps) -> Tensor:
    return rows.values[rows.index]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_levels_are_those_of_the_layer_computed(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    eighths(layer, dtype)
    rows = spikes(len(CHARGE), 5, shape)
    rows = SparseSteps(rows.values, rows.index, torch.tensor(0.375, dtype=dtype))
    source = projection(rows, layer)
    constant = torch.randint(-8, 30, (1, *source.empty_like.shape[1:])).to(dtype) / 8
    skip = SparseSteps(
        torch.randint(-9, 9, (4, *source.empty_like.shape[1:])).to(dtype) / 8, torch.randint(0, 4, rows.index.shape)
    )
    by_channel = torch.randint(2, 9, (source.empty_like.shape[1], *[1] * (len(shape) - 1))).to(dtype) / 8
    for threshold in (torch.tensor(0.625, dtype=dtype), by_channel):
        bias = constant.view(1, constant.shape[1], -1)[..., :1].view(1, -1, *[1] * (len(shape) - 1)).expand_as(constant)
        for inputs, fixed in (
            ([source], None),
            ([source], bias),
            ([source, skip], constant),
            ([source, source], constant),
        ):
            found = fire(inputs, fixed, CHARGE, threshold, 3, RULE)
            wanted = fire(inputs, fixed, CHARGE, threshold, 3, RULE, compiled=False)
            assert torch.equal(as_levels(found), as_levels(wanted))
            assert torch.equal(found.index, wanted.index)
            assert bool((as_levels(found) > 0).any())


@pytest.mark.parametrize("options", [compiler.OPTIONS, ANY_MACHINE], ids=["this machine", "any machine"])
def test_spike_trains_of_all_lengths_are_summed_up(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many units that some trains are summed of themselves, and that not all units are looked at to choose."""
    torch.manual_seed(0)
    monkeypatch.setattr(compiler, "OPTIONS", options)
    compiler.forget()
    try:
        for steps, channels in ((7, 40), (8, 64), (9, 64), (40, 40)):
            layer = eighths(nn.Conv2d(70, channels, 3, padding=1, bias=False), torch.float32)
            source = projection(spikes(steps, 4, (70, 12, 11)), layer)
            given = ([source], None, [0.0] * steps, torch.tensor(1.5), 3, RULE)
            found, wanted = (as_levels(fire(*given, compiled=compiled)) for compiled in (True, False))
            assert torch.equal(found, wanted)
            assert len(wanted.unique()) > 2
    finally:
        compiler.forget()


@pytest.mark.parametrize("rule", [RULE, FiringRule(precharge=0.5, decay=0.5)], ids=["plain", "leaky"])
@pytest.mark.parametrize("width", [1, 2, 5, 7])
def test_columns_are_taken_together(width: int, rule: FiringRule) -> None:
    """Of few channels, in runs of more than a window, where what is beyond a row is reached by spikes."""
    torch.manual_seed(width)
    for channels in (8, 16, 32):
        wide = eighths(nn.Conv2d(6, channels, 3, padding=1, bias=False), torch.float32)
        one = eighths(nn.Conv2d(6, channels, 1, bias=False), torch.float32)
        rows = spikes(11, 3, (6, 4, width))
        given = ([projection(rows, wide), projection(rows, one)], None, [0.0] * 11, torch.tensor(1.5), 3, rule)
        found, wanted = fire(*given), fire(*given, compiled=False)
        assert torch.equal(as_levels(found), as_levels(wanted))
        assert torch.equal(found.index, wanted.index)


def test_columns_are_taken_together_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "OPTIONS", ANY_MACHINE)
    compiler.forget()
    try:
        test_columns_are_taken_together(5, RULE)
    finally:
        compiler.forget()


def test_neurons_beyond_a_row_do_not_fire() -> None:
    layer = nn.Conv2d(1, 16, (1, 2), bias=False)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.weight.data[..., 0], 4)
    levels = torch.zeros(1, 1, 1, 6, dtype=torch.uint8)
    levels[..., 5] = 1
    rows = SparseSteps(levels, torch.zeros(3, 1, dtype=torch.int64), torch.tensor(1.0))
    found = fire([projection(rows, layer)], None, [0.0] * 3, torch.tensor(1.0), 3, RULE)
    assert not as_levels(found).any()
    assert found.index.flatten().tolist() == [0, 0, 0]


def test_some_weights_in_lists_and_others_added_where_spikes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(memory_layout, "NEAR", 2**13)
    for dtype in (torch.float32, torch.float64):
        far, near = (eighths(nn.Conv2d(10, 24, k, padding=k // 2, bias=False), dtype) for k in (5, 1))
        rows = spikes(11, 3, (10, 6, 5))
        rows = SparseSteps(rows.values, rows.index, torch.tensor(0.375, dtype=dtype))
        sources = [projection(rows, far), projection(rows, near)]
        given = (sources, None, [0.0] * 11, torch.tensor(1.5, dtype=dtype), 3, RULE)
        found, wanted = fire(*given), fire(*given, compiled=False)
        assert torch.equal(as_levels(found), as_levels(wanted))
        assert torch.equal(found.index, wanted.index)


def test_long_kernels_with_long_strides() -> None:
    layer = eighths(nn.Conv1d(1, 16, 1024, stride=1024, bias=False), torch.float32)
    given = ([projection(spikes(3, 2, (1, 2048)), layer)], None, [0.0] * 3, torch.tensor(1.5), 3, RULE)
    assert torch.equal(as_levels(fire(*given)), as_levels(fire(*given, compiled=False)))


@pytest.mark.parametrize(("images", "height", "stride"), [(7, 9, 1), (7, 9, 2), (11, 3, 1)])
def test_tiles_and_threads_change_nothing(
    images: int, height: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(queue, "SMALL", 0)
    layer = nn.Conv2d(4, 150, 3, stride=stride, padding=1, bias=False)
    source, threads = projection(spikes(11, images, (4, height, 6)), layer), torch.get_num_threads()
    found = []
    try:
        for count, size in ((1, 1), (2, 1), (1, 2**13), (3, 2**14), (1, 2**20), (40, 2**20)):
            torch.set_num_threads(count)
            monkeypatch.setattr(neuron, "LISTED", size)
            found.append(as_levels(fire([source], None, [0.0] * 11, torch.tensor(0.5), 3, RULE)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    assert len(found[0].unique()) > 2


def test_a_batch_may_be_empty() -> None:
    layer = eighths(nn.Conv2d(4, 32, 3, padding=1, bias=False), torch.float32)
    rows = SparseSteps(
        torch.zeros(0, 4, 6, 6, dtype=torch.uint8), torch.zeros(8, 0, dtype=torch.int64), torch.tensor(0.5)
    )
    found = fire([projection(rows, layer)], None, [0.0] * 8, torch.tensor(0.5), 3, RULE)
    assert found.index.shape == (8, 0)


def test_long_signals_keep_their_places() -> None:
    layer = eighths(nn.Conv1d(64, 1, 1, bias=False), torch.float32)
    width, at = 2**20 + 8, 2**20 + 2
    levels = torch.zeros(1, 64, width, dtype=torch.uint8)
    levels[0, :, at] = 1
    rows = SparseSteps(levels, torch.zeros(1, 1, dtype=torch.int64), torch.tensor(1.0))
    nn.init.constant_(layer.get_parameter("weight"), 0.5)
    found = as_levels(fire([projection(rows, layer)], None, [0.0], torch.tensor(1.0), 3, RULE))
    assert found.nonzero().tolist() == [[0, 0, 0, at]]


def test_where_lists_would_be_too_long_the_layer_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = eighths(nn.Conv2d(4, 32, 3, padding=1, bias=False), torch.float32)
    source = projection(spikes(9, 3, (4, 6, 5)), layer)
    given = ([source], None, [0.0] * 9, torch.tensor(0.5), 3, RULE)
    wanted = as_levels(fire(*given))
    needed = listed(monkeypatch, *given)
    assert needed > 0
    with monkeypatch.context() as patch:
        patch.setattr(neuron, "MOST_LISTED", needed)
        assert listed(patch, *given) == needed
    with monkeypatch.context() as patch:
        patch.setattr(neuron, "MOST_LISTED", needed - 1)
        assert listed(patch, *given) == 0
        assert torch.equal(as_levels(fire(*given)), wanted)


def test_levels_that_are_no_bytes_are_left_to_the_reference() -> None:
    layer = eighths(nn.Linear(6, 4, bias=False), torch.float32)
    rows = SparseSteps(torch.tensor([[0, 0, 1, 2, 0, 300]], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int64))
    source = projection(SparseSteps(rows.values, rows.index, torch.tensor(0.5)), layer)
    found, wanted = (
        as_levels(fire([source], None, [0.0], torch.tensor(0.5), 3, RULE, compiled=compiled))
        for compiled in (True, False)
    )
    assert torch.equal(found, wanted)


def test_steps_after_the_last_event_cost_no_memory_and_lose_nothing() -> None:
    torch.manual_seed(0)
    layer = eighths(nn.Conv2d(4, 32, 3, padding=1, bias=False), torch.float32)
    rows = spikes(6, 5, (4, 6, 6))
    longer = SparseSteps(rows.values, torch.cat([rows.index, rows.index[-1:].expand(94, -1)]), rows.scale)
    charge = (*CHARGE, *[0.0] * 94)
    source = projection(longer, layer)
    found = fire([source], None, charge, torch.tensor(0.125), 3, RULE)
    wanted = fire([source], None, charge, torch.tensor(0.125), 3, RULE, compiled=False)
    assert torch.equal(as_levels(found), as_levels(wanted))
    assert int(found.index.max()) < 20 * 5


def test_the_weight_may_change_and_modules_are_forgotten() -> None:
    layer = nn.Linear(4, 3, bias=False)
    first = synapses.of(layer)
    assert first is not None
    assert synapses.of(layer) is first
    assert first.packed(16, digits=False).rows.shape == (1, 4, 16)
    assert first.packed(16, digits=False) is first.packed(16, digits=False)
    with torch.no_grad():
        layer.weight.mul_(2)
    second = synapses.of(layer)
    assert second is not None
    assert second is not first
    assert torch.equal(second.packed(16, digits=False).rows[0, :, :3], layer.weight.detach().T)
    third = synapses.of(layer.double())
    assert third is not None
    assert third.kernel.dtype == torch.float64
    module = weakref.ref(layer)
    del layer, first, second, third
    gc.collect()
    assert module() is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.ConvTranspose2d(4, 4, 3, bias=False),
        nn.ReLU(),
    ],
    ids=str,
)
def test_other_layers_are_left_to_pytorch(layer: nn.Module) -> None:
    assert synapses.of(layer) is None


def test_values_of_other_dimensions_are_left_to_pytorch() -> None:
    rows = SparseSteps(torch.zeros(2, 5, 4, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.int64), torch.tensor(0.5))
    assert Projection.of(rows, nn.Linear(4, 3, bias=False)) is None


def test_spikes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for channels_last in (False, True):
        rows = spikes(8, 5, (3, 7, 6))
        if channels_last:
            rows = SparseSteps(rows.values.contiguous(memory_format=torch.channels_last), rows.index, rows.scale)
        levels = as_levels(rows).int()
        change = torch.cat([levels[:1], levels[1:] - levels[:-1]]).flatten(1)
        expected = torch.stack([(change == 1).sum(1), (change == -1).sum(1)])
        assert torch.equal(count(rows), expected)
        with monkeypatch.context() as patch:
            patch.setattr(compiler, "available", lambda *_: False)
            assert torch.equal(count(rows), expected)


def test_room_for_events_is_for_steps_at_which_something_changes(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SMALL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # each has lists of its own
    if weights == "scattered":
        pytest.skip("there are no lists")
    torch.manual_seed(0)
    rows = spikes(6, 5, (64, 6, 6))
    layer = eighths(nn.Conv2d(64, 32, 3, padding=1, bias=False), torch.float32)
    some = torch.cat([rows.index, rows.index[-1:].expand(200, -1)])
    every = torch.cat([rows.index, *[rows.index[-2:]] * 100])
    sizes = [
        listed(
            monkeypatch,
            [projection(SparseSteps(rows.values, index, rows.scale), layer)],
            None,
            charge,
            torch.tensor(0.5),
            3,
            RULE,
        )
        for index, charge in (
            (rows.index, [0.0] * 6),
            (rows.index.flip(1), [0.0] * 6),  # whichever image it is that moves the most
            (some, [0.0] * 206),
            (every, [0.0] * 206),
        )
    ]
    short, turned, still, moving = sizes
    assert turned == short
    assert moving - still > 5 * (still - short)


def test_levels_that_do_not_fit_are_left_to_the_module() -> None:
    wide = SparseSteps(torch.zeros(1, 9, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64), torch.tensor(1.0))
    small = SparseSteps(torch.zeros(1, 4, 1, 1, dtype=torch.uint8), wide.index, wide.scale)
    assert Projection.of(wide, nn.Linear(8, 4, bias=False)) is None
    assert Projection.of(small, nn.Conv2d(4, 8, 3, stride=3, bias=False)) is None
    assert Projection.of(small, nn.Conv2d(4, 8, 3, padding=1, bias=False)) is not None
