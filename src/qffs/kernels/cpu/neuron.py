"""A layer of neurons and the synapses before it, computed by the C function of layer.c."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler, memory_layout
from qffs.kernels.cpu.memory_layout import Layout
from qffs.kernels.cpu.queue import CPU, Kept, Pending, Queue, threads
from qffs.kernels.layer import Neurons, Projection, Signal

LONGEST = 255
"""The most steps of a run: a level grows by at most one per step, and has to fit into a byte."""
LISTED = 2**18
"""How many numbers the lists or sums of one tile may take; those of a tile of one row may be longer."""
MOST_LISTED = 2**28
"""The most numbers that all lists may need; where they could be more, the layers before are computed first."""


def enqueue(queue: Queue, neurons: Neurons) -> Pending | None:
    """Add a layer of neurons to the queue, and return the levels that it will send.

    They lie in memory as the activations before them, and channels last behind synapses. None where no compiled
    function covers these neurons, or its lists would take too much memory.
    """
    if not _covered(neurons):
        return None
    dtype, kept = neurons.threshold.dtype, Kept()
    digits = _digits(neurons.inputs, dtype, not neurons.is_standard)
    through = [each for each in neurons.inputs if isinstance(each, Projection)]
    lie = Layout.behind_synapses(neurons.empty_like) if through else Layout.of(neurons.empty_like)
    rows = [each.synapses.kernel[0].numel() for each in through]
    block = memory_layout.block_size(lie.channels, rows, dtype.itemsize, digits)
    steps, images = neurons.size
    neuron_count = images * math.prod(lie.shape)
    size = steps * neuron_count
    room = queue.room(size)
    sent = room[:size].view(steps * images, *lie.shape)
    index = torch.empty(steps, images, dtype=torch.int64, device=CPU)
    layer = compiler.Layer(
        **_arriving(neurons, lie, block, digits, kept),
        **_firing(neurons, lie, kept),
        steps=steps,
        images=images,
        height=lie.height,
        width=lie.width,
        channels=lie.channels,
        block=block,
        threads=threads(neuron_count * max(steps, sum(rows))),
        listed=LISTED,
        sent=kept.pointer(sent),
        changes=kept.pointer(torch.zeros(steps, images, dtype=torch.uint8, device=CPU)),
        ended=kept.pointer(torch.empty(images, lie.blocks(block), dtype=torch.uint8, device=CPU)),
        index=kept.pointer(index),
    )
    library = compiler.library(dtype, not neurons.is_standard, digits)
    if library.scratch_size(layer, False) > MOST_LISTED:
        queue.run()
        if library.scratch_size(layer, True) > MOST_LISTED:
            return None
    queue.add(partial(_run, library, layer), kept)
    unfilled = SparseSteps(lie.to_network_order(sent), index, neurons.threshold)
    return Pending(unfilled, unfilled.empty_like, queue, room)


def _arriving(neurons: Neurons, lie: Layout, block: int, digits: bool, kept: Kept) -> dict[str, Any]:
    """Return the fields of `compiler.Layer` that tell what arrives."""
    projections = [each for each in neurons.inputs if isinstance(each, Projection)]
    inputs = [memory_layout.operand(each, lie, kept) for each in neurons.inputs if not isinstance(each, Projection)]
    sources = [memory_layout.source(each, block, digits, kept) for each in projections]
    fixed, of_channels = (None, False) if neurons.constant is None else lie.constant(neurons.constant)
    return {
        "inputs": (compiler.Input * len(inputs))(*inputs),
        "input_count": len(inputs),
        "sources": (compiler.Synapses * len(sources))(*sources),
        "source_count": len(sources),
        "constant": None if fixed is None else kept.pointer(fixed, alone=True),
        "constant_stride": 0 if fixed is None or len(fixed) == 1 else math.prod(fixed.shape[1:]),
        "constant_of_channels": of_channels,
        "charged": (ctypes.c_double * len(neurons.charge))(*accumulate(neurons.charge)),
    }


def _firing(neurons: Neurons, lie: Layout, kept: Kept) -> dict[str, Any]:
    """Return the fields of `compiler.Layer` that tell how neurons fire."""
    threshold, rule = neurons.threshold, neurons.rule
    by_neuron = threshold.dim() > 0
    return {
        "threshold": kept.pointer(lie.laid_out(threshold[None]) if by_neuron else threshold),
        "by_neuron": by_neuron,
        "precharge": neurons.precharge,
        "highest": neurons.highest,
        "decay": rule.decay,
        "negative_spikes": rule.negative_spikes,
        "cap": rule.cap,
        "to_zero": rule.reset == "zero",
    }


def _run(library: Any, layer: Any, queue: Queue) -> None:
    layer.scratch = queue.scratch(library.scratch_size(layer, True))
    library.fire(layer)


def _covered(neurons: Neurons) -> bool:
    """Return whether there is a compiled function for these neurons and what arrives at them."""
    threshold, loses = neurons.threshold, not neurons.is_standard
    if neurons.rule.multi_spike or len(neurons.charge) > LONGEST:
        return False
    likes = [each.empty_like for each in neurons.inputs]
    types = {tensor.dtype for tensor in (*likes, threshold, neurons.constant) if tensor is not None}
    sources = [memory_layout.uncomputed(each) for each in neurons.inputs]
    scalar = all(each.scale is None or (each.scale.dim(), each.values.dtype) == (0, torch.uint8) for each in sources)
    alike = len({like.shape[1:] for like in likes}) <= 1
    digits = _digits(neurons.inputs, threshold.dtype, loses)
    there = compiler.available(threshold.dtype, threshold.device, loses, digits)
    return scalar and alike and len(types) == 1 and there


def _digits(inputs: Sequence[Signal], dtype: torch.dtype, loses: bool) -> bool:
    """Return whether weights are taken as two digits: where all may be, and those of a block are not few."""
    kernels = [each.synapses.kernel for each in inputs if isinstance(each, Projection)]
    rows = [kernel[0].numel() for kernel in kernels]
    few = any(rows) and memory_layout.near(
        max(rows) * memory_layout.block_size(len(kernels[0]), rows, 4, digits=False) * 4
    )
    may = compiler.divided(dtype, loses) and not few
    return may and all(each.synapses.divisible for each in inputs if isinstance(each, Projection))
