"""Several processes that work as one, as ``torchrun`` starts them; alone, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> int:
    """How many processes work together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0; files are written and bars shown by process 0 alone."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did, and give the device of this one; part at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes, the same in each; x itself where this one is alone."""
    if world() == 1:
        return x
    summed = x.clone()
    dist.all_reduce(summed)
    return summed


def share(count: int) -> Tensor:
    """This process's part of the numbers below ``count``: each number belongs to exactly one process."""
    return torch.arange(rank(), count, world())
