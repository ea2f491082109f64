"""All steps of a layer of neurons in one launch on a GPU: the loop of `qffs.functional.neuron`, written in Triton.

It is the counterpart of layer.c on CPUs, for inputs that are computed already. Each program takes neurons of one image
through all steps with their potentials in registers. It writes only the levels, and for each step
whether any neuron of a block fired.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from qffs.functional.lsq import accumulation_dtype
from qffs.functional.sparse_steps import align
from qffs.kernels.cpu.memory_layout import Layout
from qffs.kernels.layer import Neurons

BLOCK = 512
"""The number of neurons of one program."""


@triton.jit
def _either(one, other):
    return one | other


@triton.jit
def _fire(
    values,  # [R, neurons], accumulated inputs
    index,  # [T, B], the row of `values` for each image after each step
    constant,  # [1 or B, neurons]
    threshold,  # [1 or neurons], in the type for sums
    charged,  # [T], the share of the constant that has been charged after each step
    sent,  # [T, B, neurons], levels
    fired,  # [T, B, blocks], whether any neuron of the block fired
    steps,
    images,
    neurons,
    constant_stride,
    ARRIVES: tl.constexpr,
    CHARGES: tl.constexpr,
    BY_NEURON: tl.constexpr,
    PRECHARGE: tl.constexpr,
    HIGHEST: tl.constexpr,  # 0 without a cap
    NEGATIVE: tl.constexpr,
    TO_ZERO: tl.constexpr,
    LEAK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)  # the first axis of the grid: the others have at most 65,535 programs
    image = tl.program_id(1).to(tl.int64)
    neuron = block * BLOCK + tl.arange(0, BLOCK)
    real = neuron < neurons
    theta = tl.load(threshold + (neuron if BY_NEURON else neuron * 0), mask=real, other=1.0)
    rest = theta * PRECHARGE
    level = theta * 0
    # For a reset to zero or a leak: the part of all input so far that is lost.
    lost = (1 - LEAK) * rest
    injected = level
    if CHARGES:
        injected = tl.load(constant + image * constant_stride + neuron, mask=real, other=0.0).to(theta.dtype)
    for t in range(steps):
        total = rest
        if CHARGES:
            weight = tl.load(charged + t)
            total += weight * tl.where(weight != 0, injected, 0.0)  # 0 times a mask's infinity would be NaN
        if ARRIVES:
            row = tl.load(index + t * images + image)
            total += tl.load(values + row * neurons + neuron, mask=real, other=0.0).to(theta.dtype)
        potential = total - lost if TO_ZERO or LEAK != 1 else total - theta * level
        up = potential >= theta
        if HIGHEST > 0:
            up = up & (level < HIGHEST)
        spike = up.to(theta.dtype)
        if NEGATIVE:
            spike -= ((potential < 0) & (level > 0)).to(theta.dtype)
        level += spike
        if TO_ZERO:
            lost = total - LEAK * tl.where(spike != 0, 0.0, potential)
        elif LEAK != 1:
            lost = total - LEAK * (potential - theta * spike)
        at = t * images + image
        tl.store(sent + at * neurons + neuron, level.to(sent.dtype.element_ty), mask=real)
        some = tl.reduce((real & (spike != 0)).to(tl.int32), 0, _either)
        tl.store(fired + at * tl.num_programs(0) + block, some)


def fire(neurons: Neurons) -> tuple[Tensor, Tensor]:
    """Return the levels ``[T, B, ...]``, and ``[T, B]``, whether any level of an image changed at a step.

    The result is that of `qffs.kernels.neuron.fire`. Rules with ``multi_spike`` are not covered.
    """
    inputs, constant, threshold, rule = neurons.rows(), neurons.constant, neurons.threshold, neurons.rule
    (steps, images), like = neurons.size, constant
    total = index = None
    if inputs:
        parts, index = align(inputs)
        wide = accumulation_dtype(parts[0].dtype)
        total = parts[0] if len(parts) == 1 else sum((each.to(wide) for each in parts[1:]), parts[0].to(wide))
        like = total
    assert like is not None
    layout, wide = Layout.of(like), accumulation_dtype(like.dtype)
    size = math.prod(layout.shape)
    blocks = triton.cdiv(size, BLOCK)
    theta = (layout.laid_out(threshold[None]) if threshold.dim() else threshold).to(wide)
    fixed = theta if constant is None else layout.laid_out(constant)
    sent = torch.empty(steps * images, *layout.shape, dtype=neurons.levels, device=like.device)
    fired = torch.empty(steps, images, blocks, dtype=torch.uint8, device=like.device)
    launch = _fire[(blocks, images)] if sent.numel() else _nothing
    with torch.cuda.device_of(like):  # Triton launches on the current device, wherever the tensors are
        launch(
            theta if total is None else layout.laid_out(total),
            theta if index is None else index.contiguous(),
            fixed,
            theta,
            _charged(tuple(neurons.charge), wide, like.device),
            sent,
            fired,
            steps,
            images,
            size,
            0 if constant is None or len(fixed) == 1 else size,
            ARRIVES=total is not None,
            CHARGES=constant is not None,
            BY_NEURON=threshold.dim() > 0,
            PRECHARGE=neurons.precharge,
            HIGHEST=neurons.highest if rule.cap else 0,
            NEGATIVE=rule.negative_spikes,
            TO_ZERO=rule.reset == "zero",
            LEAK=rule.decay,
            BLOCK=BLOCK,
            enable_fp_fusion=False,  # PyTorch rounds products before it adds
        )
    return layout.to_network_order(sent).unflatten(0, (steps, images)), fired.any(-1).bool()


def _nothing(*_: Any, **__: Any) -> None:
    """Launch nothing: the kernel of a batch without images."""


@cache
def _charged(charge: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(list(accumulate(charge)), dtype=dtype, device=device)
