"""Back ends that simulate a whole run. All give the spikes of the reference, which steps through time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument
from qffs.functional.neuron import NeuronState
from qffs.functional.sparse_steps import SparseSteps
from qffs.graph.nested import joined
from qffs.kernels.cpu import compiler, max_pool
from qffs.kernels.cpu.neuron import LONGEST
from qffs.nn.neuron import Neuron
from qffs.spiking.operations import Operations
from qffs.spiking.step_by_step import Observer, State, accumulate, advance

COMPILED, PYTORCH, REFERENCE = "compiled", "pytorch", "reference"
BACKENDS = (COMPILED, PYTORCH, REFERENCE)
"""The fastest first: event-driven layers compiled for this CPU; sums over time by PyTorch's operators, on any device,
and neurons in Triton on a GPU; the reference, which steps through time."""

Counter = Callable[[str, Tensor], None]
"""Called after each layer of neurons, for some images at a time, with its path and how many positive and negative
spikes it sent at each step: int64 ``[2, T]``."""


class Activity:
    """A counter of the last step at which any neuron fired: ``last``, 0 where none did."""

    def __init__(self, steps: int) -> None:
        self._fired = torch.zeros(steps, dtype=torch.bool)

    def count(self, _: str, spikes: Tensor) -> None:
        """Take in the spikes of one layer, ``[2, T]``."""
        self._fired |= spikes.any(0).cpu()

    @property
    def last(self) -> int:
        """The number of the last step at which any neuron fired."""
        return int(self._fired.nonzero().max()) + 1 if bool(self._fired.any()) else 0


Begin = Callable[[tuple[Tensor, ...]], State]

AT_A_TIME, NUMBERS = 64, 2**21
"""The most images that run at a time, and the most numbers that they hold: memory does not grow with further images."""


def compiles(network: nn.Module, steps: int) -> bool:
    """Return whether the levels of every layer fit into a byte and change by one at most, as the C code needs."""
    return steps <= LONGEST and not any(m.rule.multi_spike for m in network.modules() if isinstance(m, Neuron))


def choose(name: str | None, operations: Operations, steps: int, like: Tensor) -> str:
    """Return the back end of this name, or the fastest one, for a network whose weights are like a tensor.

    Raises `InvalidArgument` where there is none of this name, or it cannot run the network.
    """
    if name is not None and name not in BACKENDS:
        raise InvalidArgument(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    if name == REFERENCE or not operations.by_layer:
        if name not in {None, REFERENCE}:
            raise InvalidArgument(
                f"the {name} back end cannot run this: the network turns or cuts the images of a batch"
            )
        return REFERENCE
    compiled = name != PYTORCH and compiler.available(like.dtype, like.device)
    if name == COMPILED and not compiled:
        raise InvalidArgument("the compiled back end needs a CPU with a C compiler, and float32 or float64")
    if not compiles(operations.network, steps):
        if name == COMPILED:
            raise InvalidArgument(
                f"the compiled back end runs at most {LONGEST} steps, and neurons that send one spike at a step"
            )
        return PYTORCH
    return COMPILED if compiled else PYTORCH


def run(
    backend: str,
    operations: Operations,
    inputs: Sequence[Tensor],
    charge: Sequence[float],
    counter: Counter | None,
    begin: Begin = State,
) -> Any:
    """Return what is read out up to each step, ``[T, B, ...]``, in the network's own nesting, for inputs ``[B, ...]``.

    begin: the state before the first step, in which no neuron has sent a spike, of some of the inputs.
    """
    count = max(1, min(AT_A_TIME, NUMBERS // max([1, *(x[:1].numel() for x in inputs)])))
    if backend == REFERENCE:  # images need not be in the first dimension
        count = max(1, len(inputs[0]))
    groups = [*zip(*(_laid_out(backend, x).split(count) for x in inputs), strict=True)]
    readouts = [_some(backend, operations, begin(group), charge, counter) for group in groups]
    return readouts[0] if len(groups) == 1 else joined(readouts, 1)


def _some(backend: str, operations: Operations, state: State, charge: Sequence[float], counter: Counter | None) -> Any:
    compiled = backend == COMPILED
    if backend != REFERENCE:
        from qffs.spiking.layer_by_layer import accumulated  # imported when it is chosen

        observer = None if counter is None else partial(_count_levels, counter, compiled)
        return accumulated(operations, state.inputs, charge, observer, compiled, state.neurons)
    spikes = None if counter is None else partial(count_spikes, counter)
    increments, _ = advance(operations, state, charge, spikes)
    return accumulate(increments)


def _laid_out(backend: str, x: Tensor) -> Tensor:
    """Return images in the memory format that the back end reads fastest."""
    channels_last = backend == COMPILED and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def _count_levels(counter: Counter, compiled: bool, path: str, sent: SparseSteps) -> None:
    counter(path, max_pool.count(sent, compiled))


def count_spikes(counter: Counter, path: str, spikes: Tensor, _: NeuronState) -> None:
    """Tell a counter how many spikes a layer sent at each step, of each sign; several at once count as many."""
    counter(path, torch.stack([(sign * spikes).clamp_min(0).flatten(1).sum(1).long() for sign in (1, -1)]))


def in_first_step(counter: Counter | None, steps: int) -> Observer | None:
    """Return an observer that tells a counter of a simulation before the run as if all of it had been at step 1."""
    if counter is None:
        return None

    def count(layer: str, sent: Tensor) -> None:
        first = torch.zeros(2, steps, dtype=sent.dtype, device=sent.device)
        first[:, 0] = sent.sum(1)
        counter(layer, first)

    return partial(count_spikes, count)
