"""`qffs.functional.fire.fire` on accumulated input: all steps of a layer in one pass over memory.

What neurons receive is given as sums over time, ``A_t = sum of I_1 to I_t``, and what they sent likewise, as levels
``Z_t``, so that the potential is ``u_t = u_0 + A_t - θ Z_{t-1}`` and needs no memory of its own. What comes through
synapses is added up spike train by spike train: the weights of units that spike at the same steps once, and of those
that never spike not at all. On CPUs the pass is a C function, compiled by the machine's own compiler. On GPUs what
comes through synapses is computed before, and the pass is a kernel in Triton; everywhere else, the reference loop.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import warnings
from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from qffs.functional import fire as reference
from qffs.functional.lsq import accumulation_dtype
from qffs.functional.rows import Rows, changed
from qffs.kernels import layout, native
from qffs.kernels.layout import Layout
from qffs.kernels.queue import CPU, Kept, Pending, Queue
from qffs.kernels.synapses import Projection, computed
from qffs.levels import FiringRule

LONGEST = 255
"""The most steps: a level is at most one a step, and has to fit into a byte."""
LISTED = 2**18
"""Numbers that a thread's lists of what spikes have room for, or more where one row of neurons needs it."""
MOST_LISTED = 2**28
"""The most numbers that all lists may need; the layer before is computed where they would be more."""
NEAR = 2**16
"""Bytes up to which the weights of a block are read so fast that half as many would not be faster."""


Signal = Rows | Pending | Projection
"""What arrives at neurons, as far as it has been computed."""


def fire(
    inputs: Sequence[Signal],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
    compiled: bool = True,
) -> Rows:
    """The levels after each of T steps, from rest, of the images and steps where one changed.

    inputs: what other neurons sent, accumulated over time, each ``[R, ...]`` with its place ``[T, B]``, or through
    synapses; they are added up. constant: ``[B, ...]`` or None, and charge: the T weights that it comes with.
    threshold, highest and rule: as in `qffs.functional.fire.step`, the pre-charge of the rule included; compiled:
    whether it may be the C function, for which T is at most `LONGEST`. Returned: levels in the smallest type that they
    fit, with the threshold as their scale.
    """
    return computed(enqueue(Queue(), inputs, constant, charge, threshold, highest, rule, compiled))


def enqueue(
    queue: Queue,
    inputs: Sequence[Signal],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
    compiled: bool = True,
) -> Rows | Pending:
    """As `fire`; what is left to the C function is computed when the queue is run."""
    compiled = compiled and not rule.several and len(charge) <= LONGEST
    levels = _native(queue, inputs, constant, charge, threshold, highest, rule) if compiled else None
    if levels is not None:
        return levels
    rows = [computed(each) for each in inputs]
    levels = _native(queue, rows, constant, charge, threshold, highest, rule) if compiled else None
    if levels is not None:
        return levels
    triton = None if rule.several else in_triton(threshold.device, threshold.dtype)
    if triton is None:
        dense, changes = _plain(rows, constant, charge, threshold, highest, rule)
    else:
        dtype = _whole(len(charge), highest, rule)
        dense, changes = triton.fire(rows, constant, charge, threshold, highest, rule, dtype)
    return changed(dense, changes, threshold)


@cache
def in_triton(device: torch.device, dtype: torch.dtype) -> Any:
    """`qffs.kernels.fire_triton` for a GPU, if neurons fire there as by the reference loop: tried once for each type.

    None on other devices, and, with a warning, where it fails.
    """
    if device.type != "cuda":
        return None
    try:
        reason = differs(importlib.import_module("qffs.kernels.fire_triton"), device, dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler may fail in any way, and the reference loop runs
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if reason is not None:
        warnings.warn(f"neurons are not compiled on {device}, and simulation is slower: {reason}", stacklevel=2)
        return None
    return importlib.import_module("qffs.kernels.fire_triton")


def differs(triton: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with what neurons send by a module like `qffs.kernels.fire_triton`; None where nothing is."""
    eighths = torch.arange(2000, device=device) % 37 / 8 - 1, torch.arange(8000, device=device) % 23 / 8 - 1
    constant, arrived = (each.to(dtype).view(-1, 1000) for each in eighths)  # of which nothing is rounded
    charge, theta = (0.5, 0.5, 0.0, 0.0), torch.tensor(0.25, dtype=dtype, device=device)
    given = [Rows.of(arrived, 4)], constant, charge, theta, 3, FiringRule(precharge=0.5)
    pairs = zip(triton.fire(*given, torch.uint8), _plain(*given), strict=True)
    return None if all(torch.equal(*pair) for pair in pairs) else "its spikes are others"


def count(levels: Rows, compiled: bool = True) -> Tensor:
    """How many positive and negative spikes led to levels at each step, over all images, ``[2, T]``.

    compiled: whether it may be the C function, for levels that change by one at most.

    >>> count(Rows(torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8), torch.tensor([[0], [1], [1]])))
    tensor([[1, 1, 0],
            [0, 1, 0]])
    """
    steps, images = levels.place.shape
    values = levels.values.contiguous(memory_format=_format(levels.values))
    library = native.library_of_levels() if compiled and values.device == CPU and values.dtype == torch.uint8 else None
    if library is not None:
        spikes = torch.empty(2, steps, dtype=torch.int64, device=CPU)
        size, threads, place = math.prod(values.shape[1:]), torch.get_num_threads(), levels.place.contiguous()
        library.count(values.data_ptr(), place.data_ptr(), steps, images, size, threads, spikes.data_ptr())
        return spikes
    counts, before = [], torch.zeros_like(values[levels.place[0]], dtype=torch.int32)
    for step, rows in enumerate(levels.place):
        moved = rows != levels.place[step - 1] if step else torch.ones_like(rows, dtype=torch.bool)
        now = values[rows[moved]].int()
        risen = now - before[moved]
        before[moved] = now
        counts.append(torch.stack([(sign * risen).clamp_min(0).sum() for sign in (1, -1)]))
    return torch.stack(counts, 1)


def _format(values: Tensor) -> torch.memory_format:
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _covered(inputs: Sequence[Signal], constant: Tensor | None, threshold: Tensor, rule: FiringRule) -> bool:
    """Whether there is a compiled function for these inputs."""
    likes = [each.like for each in inputs]
    types = {tensor.dtype for tensor in (*likes, threshold, constant) if tensor is not None}
    sources = [layout.uncomputed(each) for each in inputs]
    loses = not rule.plain
    scalar = all(each.scale is None or (each.scale.dim(), each.values.dtype) == (0, torch.uint8) for each in sources)
    alike = len({like.shape[1:] for like in likes}) <= 1
    return (
        scalar
        and alike
        and len(types) == 1
        and native.available(threshold.dtype, threshold.device, loses, _digits(inputs, threshold.dtype, loses))
    )


def _digits(inputs: Sequence[Signal], dtype: torch.dtype, loses: bool) -> bool:
    """Whether weights are taken as two digits: where all may be, and those of a block are not near anyway."""
    kernels = [each.synapses.kernel for each in inputs if isinstance(each, Projection)]
    rows = [kernel[0].numel() for kernel in kernels]
    near = any(rows) and max(rows) * layout.block_size(len(kernels[0]), rows, 4, digits=False) * 4 <= NEAR
    may = native.divided(dtype, loses) and not near
    return may and all(each.synapses.divisible for each in inputs if isinstance(each, Projection))


def _plain(
    inputs: Sequence[Rows],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
) -> tuple[Tensor, Tensor]:
    """Levels ``[T, B, ...]`` and, ``[T, B]``, whether any of an image's changed: by the reference loop.

    Steps at which nothing arrives any more are run until no neuron fires; the levels of those after are left out.
    """
    end = _end(inputs, constant, charge) if rule.leak == 1 else len(charge)
    sums = [Rows(each.values, each.place[:end], each.scale).dense().unflatten(0, (end, -1)) for each in inputs]
    like = sums[0][0] if sums else constant
    assert like is not None
    assert rule.precharge is not None
    wide = accumulation_dtype(like.dtype)
    total = sum((each.to(wide) for each in sums[1:]), sums[0].to(wide)) if sums else None
    increments = None if total is None else torch.cat([total[:1], total[1:] - total[:-1]])
    theta = threshold.to(wide)
    state = reference.rest(like.to(wide), theta, rule.precharge)
    spikes, state = reference.fire(state, constant, increments, charge[:end], theta, highest, rule)
    every = list(spikes)
    while len(every) < len(charge) and bool(every[-1].any()):
        spike, state = reference.step(state, torch.zeros_like(state.potential), theta, highest, rule)
        every.append(spike)
    spikes = torch.stack(every)
    levels = spikes.new_empty((len(charge), *spikes.shape[1:]), dtype=_whole(len(charge), highest, rule))
    changes = torch.zeros(levels.shape[:2], dtype=torch.bool, device=levels.device)
    levels[: len(every)] = spikes.cumsum(0)
    changes[: len(every)] = (spikes != 0).unsqueeze(-1).flatten(2).any(-1)
    return levels, changes


def _end(inputs: Sequence[Rows], constant: Tensor | None, charge: Sequence[float]) -> int:
    """The step from which on nothing arrives any more, at least 1."""
    charged = [t for t, weight in enumerate(charge) if weight and constant is not None]
    moved = [(each.place[1:] != each.place[:-1]).any(1).nonzero().flatten() + 1 for each in inputs]
    return max([0, *charged, *(int(each[-1]) for each in moved if len(each))]) + 1


def _whole(steps: int, highest: int, rule: FiringRule) -> torch.dtype:
    """The smallest type of whole numbers that holds every level of a run."""
    largest = highest if rule.cap else steps
    if rule.several and not rule.cap:
        return torch.int32
    return torch.uint8 if largest <= torch.iinfo(torch.uint8).max else torch.int32


def _native(
    queue: Queue,
    inputs: Sequence[Signal],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
) -> Pending | None:
    """Levels by the compiled function, on activations as they lie in memory, channels last behind synapses.

    None where there is no such function, or its lists would take too much memory.
    """
    if not _covered(inputs, constant, threshold, rule):
        return None
    given = [each for each in inputs if not isinstance(each, Projection)]
    through = [each for each in inputs if isinstance(each, Projection)]
    like = inputs[0].like if inputs else constant
    assert like is not None
    assert rule.precharge is not None
    steps, images = inputs[0].size if inputs else (len(charge), len(like))
    lie = Layout.behind_synapses(like) if through else Layout.of(like)
    dtype, loses, kept = threshold.dtype, not rule.plain, Kept()
    digits = _digits(inputs, dtype, loses)
    rows = [each.synapses.kernel[0].numel() for each in through]
    block = layout.block_size(lie.channels, rows, dtype.itemsize, digits)
    operands = [layout.operand(each, lie, kept) for each in given]
    sources = [layout.source(each, block, digits, kept) for each in through]
    fixed, of_channels = (None, False) if constant is None else lie.constant(constant)
    by_neuron = threshold.dim() > 0
    size = math.prod(lie.shape)
    room = queue.room(steps * images * size)
    sent = room[: steps * images * size].view(steps * images, *lie.shape)
    changes = torch.zeros(steps, images, dtype=torch.uint8, device=CPU)
    blocks = lie.height * lie.width * math.ceil(lie.channels / block)
    ended = torch.empty(images, blocks, dtype=torch.uint8, device=CPU)
    place = torch.empty(steps, images, dtype=torch.int64, device=CPU)
    layer = native.Layer(
        inputs=(native.Input * len(operands))(*operands),
        input_count=len(operands),
        sources=(native.Synapses * len(sources))(*sources),
        source_count=len(sources),
        constant=None if fixed is None else kept.pointer(fixed, alone=True),
        constant_stride=0 if fixed is None or len(fixed) == 1 else math.prod(fixed.shape[1:]),
        constant_of_channels=of_channels,
        charged=(ctypes.c_double * steps)(*accumulate(charge)),
        steps=steps,
        images=images,
        height=lie.height,
        width=lie.width,
        channels=lie.channels,
        block=block,
        threshold=kept.pointer(lie.laid_out(threshold[None]) if by_neuron else threshold),
        by_neuron=by_neuron,
        precharge=rule.precharge,
        highest=highest,
        leak=rule.leak,
        negative_spikes=rule.negative_spikes,
        cap=rule.cap,
        to_zero=rule.to_zero,
        threads=torch.get_num_threads(),
        listed=LISTED,
        sent=kept.pointer(sent),
        changes=kept.pointer(changes),
        ended=kept.pointer(ended),
        place=kept.pointer(place),
    )
    library = native.library(dtype, loses, digits)
    if library.scratch_size(layer, False) > MOST_LISTED:
        queue.run()
        if library.scratch_size(layer, True) > MOST_LISTED:
            return None
    queue.add(partial(_run, library, layer), kept)
    unfilled = Rows(lie.given_back(sent), place, threshold)
    return Pending(unfilled, unfilled.like, queue, room)


def _run(library: Any, layer: native.Layer, queue: Queue) -> None:
    layer.scratch = queue.scratch(library.scratch_size(layer, True))
    library.fire(layer)
