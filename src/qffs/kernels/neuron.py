"""`qffs.functional.neuron.fire` on accumulated input: all steps of a layer in one pass over memory.

Inputs are sums over time, ``A_t = I_1 + ... + I_t``, and outputs are levels ``Z_t``. So the potential is
``u_t = u_0 + A_t - θ Z_{t-1}`` and is not stored.

Inputs through synapses are added up by spike train: the weights of all units that spike at the same steps are added
once. Where there are few weights, they are added spike by spike. Units that never spike cost nothing.

On CPUs the pass is a C function, compiled by the compiler of the machine. On GPUs the inputs through synapses are
computed first, and the pass is a kernel in Triton. Everywhere else it is the reference loop.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qffs.functional import neuron as reference
from qffs.functional.lsq import accumulation_dtype
from qffs.functional.sparse_steps import SparseSteps, changed
from qffs.kernels.cpu import neuron
from qffs.kernels.cpu.queue import Pending, Queue
from qffs.kernels.layer import Neurons
from qffs.method import FiringRule


def enqueue(queue: Queue, neurons: Neurons, compiled: bool = True) -> SparseSteps | Pending:
    """Return the levels of neurons after each of T steps, from rest, as `SparseSteps` of the changes.

    compiled: whether to use the C function where it covers the layer and its T (`qffs.kernels.cpu.neuron.LONGEST` steps
    at most). The C function is called later, when the queue runs: then the result is `Pending`. The levels have the
    smallest type that holds them, and the threshold as their scale.
    """
    levels = neuron.enqueue(queue, neurons) if compiled else None
    if levels is not None:
        return levels
    neurons = replace(neurons, inputs=neurons.rows())
    levels = neuron.enqueue(queue, neurons) if compiled else None
    if levels is not None:
        return levels
    triton = None if neurons.rule.multi_spike else in_triton(neurons.threshold.device, neurons.threshold.dtype)
    dense, changes = (fire if triton is None else triton.fire)(neurons)
    return changed(dense, changes, neurons.threshold)


@cache
def in_triton(device: torch.device, dtype: torch.dtype) -> Any:
    """Return `qffs.kernels.triton_neuron` if it fires on a GPU as the reference loop does; tried once for each type.

    Return None on other devices. Where the kernel fails or its spikes differ, warn and return None.
    """
    if device.type != "cuda":
        return None
    try:
        reason = differs(importlib.import_module("qffs.kernels.triton_neuron"), device, dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler may fail in any way, and the reference loop runs
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if reason is not None:
        warnings.warn(f"neurons are not compiled on {device}, and simulation is slower: {reason}", stacklevel=2)
        return None
    return importlib.import_module("qffs.kernels.triton_neuron")


def differs(triton: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what is wrong with the spikes of a module like `qffs.kernels.triton_neuron`; None where nothing is."""
    eighths = torch.arange(2000, device=device) % 37 / 8 - 1, torch.arange(8000, device=device) % 23 / 8 - 1
    constant, arrived = (each.to(dtype).view(-1, 1000) for each in eighths)  # sums of eighths are exact
    threshold = torch.tensor(0.25, dtype=dtype, device=device)
    inputs = [SparseSteps.of(arrived, 4)], constant, (0.5, 0.5, 0.0, 0.0)
    neurons = Neurons(*inputs, threshold, 3, FiringRule(precharge=0.5))
    pairs = zip(triton.fire(neurons), fire(neurons), strict=True)
    return None if all(torch.equal(*pair) for pair in pairs) else "its spikes are wrong"


def fire(neurons: Neurons) -> tuple[Tensor, Tensor]:
    """Return the levels ``[T, B, ...]``, and ``[T, B]``, whether any level of an image changed at a step.

    After the last input, steps run until no neuron fires. The levels of the steps after that are not written: no change
    points to them.
    """
    inputs, charge = neurons.rows(), neurons.charge
    end = _end(inputs, neurons.constant, charge) if neurons.rule.decay == 1 else len(charge)
    sums = [SparseSteps(each.values, each.index[:end], each.scale).dense().unflatten(0, (end, -1)) for each in inputs]
    like = sums[0][0] if sums else neurons.constant
    assert like is not None
    wide = accumulation_dtype(like.dtype)
    total = sum((each.to(wide) for each in sums[1:]), sums[0].to(wide)) if sums else None
    increments = None if total is None else torch.cat([total[:1], total[1:] - total[:-1]])
    theta = neurons.threshold.to(wide)
    settings = theta, neurons.highest, neurons.rule
    state = reference.rest(like.to(wide), theta, neurons.precharge)
    spikes, state = reference.fire(state, neurons.constant, increments, charge[:end], *settings)
    every = list(spikes)
    while len(every) < len(charge) and bool(every[-1].any()):
        spike, state = reference.step(state, torch.zeros_like(state.potential), *settings)
        every.append(spike)
    spikes = torch.stack(every)
    levels = spikes.new_empty((len(charge), *spikes.shape[1:]), dtype=neurons.levels)
    changes = torch.zeros(levels.shape[:2], dtype=torch.bool, device=levels.device)
    levels[: len(every)] = spikes.cumsum(0)
    changes[: len(every)] = (spikes != 0).unsqueeze(-1).flatten(2).any(-1)
    return levels, changes


def _end(inputs: Sequence[SparseSteps], constant: Tensor | None, charge: Sequence[float]) -> int:
    """Return the number of steps, at least 1, after which nothing arrives any more."""
    charge_steps = [t for t, weight in enumerate(charge) if weight and constant is not None]
    changes = [(each.index[1:] != each.index[:-1]).any(1).nonzero().flatten() + 1 for each in inputs]
    return max([0, *charge_steps, *(int(each[-1]) for each in changes if len(each))]) + 1
