"""The group of processes: who is in it, joining and parting, and the few messages that are sent in it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from qffs.errors import InvalidArgument

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, which may be writing a checkpoint or reading images meanwhile."""

SET_BY_LAUNCHERS = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What has to be set beside ``WORLD_SIZE`` for the processes to find each other."""


def world() -> int:
    """How many processes work together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0; files are written and bars shown by process 0 alone."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did, and give the device of this one; part at the end.

    That is the GPU of number ``LOCAL_RANK``, or the CPU. An error leaves without parting, for NCCL would wait there for
    processes that wait for this one: it has to end the process, and then ``torchrun`` ends the others.
    Raises `InvalidArgument` where ``WORLD_SIZE`` says that there are others but not where, or where there is no such
    GPU.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield device
        return
    device = _own(device)
    # Both kinds of tensor may be summed on a GPU machine: gloo carries those of the CPU, NCCL those of the GPUs.
    backend, bound = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, timeout=PATIENCE, device_id=bound)
    yield device
    # Whoever is first waits: torchrun ends the others, which may still be writing, where one does not end well.
    barrier()
    gc.collect()  # a network that DDP wrapped holds on to the group, whose threads have to end before the process
    dist.destroy_process_group()


def _own(device: torch.device) -> torch.device:
    """The device of this process alone; raises `InvalidArgument` as `processes` says."""
    missing = [name for name in SET_BY_LAUNCHERS if name not in os.environ]
    if missing:
        raise InvalidArgument(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {' and '.join(missing)} not set: "
            "start the processes with torchrun, or unset WORLD_SIZE"
        )
    if device.type != "cuda":
        return device
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise InvalidArgument(
            f"process {number} of this machine, counted from 0, has no GPU of its own among {count}: "
            "start as many processes as there are GPUs, or use device=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share(count: int) -> Tensor:
    """This process's part of the numbers below ``count``: each number belongs to exactly one process."""
    return torch.arange(rank(), count, world())


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes, the same in each; x itself where this one is alone."""
    (summed,) = totals(x)
    return summed


def totals(*parts: Tensor) -> tuple[Tensor, ...]:
    """`total` of several tensors of one type on one device, in one message."""
    if world() == 1:
        return parts
    summed = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(summed)
    pieces = summed.split([part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))


def gather(x: Tensor) -> Tensor:
    """The x of every process, all of one shape and type, in the order of their numbers: ``[world, ...]``."""
    if world() == 1:
        return x[None]
    received = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(received, x)
    return torch.stack(received)


def agreed(yes: bool) -> bool:
    """Whether any of the processes says yes, the same in each."""
    return yes if world() == 1 else bool(total(torch.tensor(int(yes))))


def broadcast(value: T) -> T:
    """What process 0 gave, in every process: any value that can be pickled, such as whether to resume."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()
