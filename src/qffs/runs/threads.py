"""How many threads a run computes with: one for a small network, whose threads would wait more than they compute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from qffs.runs.processors import processors, threads_are_set

SMALL = 2**24
"""Multiply-adds of a layer for a batch, on average, below which a network is small: a third of a millisecond's work."""


@contextmanager
def threads_for(network: nn.Module, example: Tensor, batch_size: int) -> Iterator[None]:
    """Compute with one thread until the block ends where the network is small, whatever the machine.

    network: in eval mode; example: some images, as the network reads them. A small network is one whose layers take
    fewer than `SMALL` multiply-adds on average for a batch. It then gives the same results on machines of any number of
    processors. Other networks keep PyTorch's number of threads, at most one for each of `processors`, and so do all
    where the user has set OMP_NUM_THREADS or MKL_NUM_THREADS. After the block the number is what it was before.
    """
    before = torch.get_num_threads()
    if not example.is_cuda and not threads_are_set():
        small = multiply_adds(network, example) * batch_size < SMALL
        torch.set_num_threads(1 if small else min(before, processors()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiply_adds(network: nn.Module, example: Tensor) -> float:
    """Return the multiply-adds for one image of a layer with weights, on average; infinity where there is no layer.

    Layers are modules whose ``weight`` has an axis of outputs and another: convolutions, linear layers.

    >>> multiply_adds(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(3, 8))
    20.0
    """
    counts: list[float] = []

    def count(rows: float, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(rows * output.numel() / len(example))

    weights = ((each, getattr(each, "weight", None)) for each in network.modules())
    hooks = [
        each.register_forward_hook(partial(count, math.prod(weight.shape[1:])))
        for each, weight in weights
        if isinstance(weight, Tensor) and weight.dim() > 1
    ]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts) / len(counts) if counts else math.inf
