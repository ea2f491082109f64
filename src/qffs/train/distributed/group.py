"""The group of processes: its size, how a process joins and leaves it, and the messages between its processes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from qffs.errors import InvalidArgument

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""The longest time that a process waits for the others, which may be writing a checkpoint or reading images."""

SET_BY_LAUNCHERS = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables beside ``WORLD_SIZE`` without which the processes cannot find each other."""


def world() -> int:
    """Return the number of processes that work together; 1 if this process works alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, counted from 0; only process 0 writes files and shows bars."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the group of processes that ``torchrun`` started, if any, yield this process's device, and leave the group.

    The device is the GPU of number ``LOCAL_RANK``, or the CPU. After an error the process does not leave the group,
    because NCCL would then wait for processes that wait for this one. The error has to end the process; ``torchrun``
    then ends the others. Raises `InvalidArgument` if ``WORLD_SIZE`` is set without the other variables, or if there is
    no such GPU.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield device
        return
    device = _device_of_process(device)
    # With GPUs, tensors on both kinds of device may be summed: gloo carries those of the CPU, NCCL those of the GPUs.
    backend, bound = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, timeout=PATIENCE, device_id=bound)
    yield device
    # Wait for processes that are still writing, because torchrun ends them if a process ends with an error.
    barrier()
    gc.collect()  # a network that DDP wrapped holds the group, whose threads have to end before the process
    dist.destroy_process_group()


def _device_of_process(device: torch.device) -> torch.device:
    """Return the device of this process; raise `InvalidArgument` as described at `processes`."""
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
            f"process {number} of this machine, counted from 0, has no GPU, because there are only {count}: "
            "start as many processes as there are GPUs, or use device=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share(count: int) -> Tensor:
    """Return this process's share of the numbers 0 to ``count - 1``; each number belongs to exactly one process."""
    return torch.arange(rank(), count, world())


def total(x: Tensor) -> Tensor:
    """Return the sum of x over all processes, the same in each process; x itself if this process works alone."""
    (summed,) = totals(x)
    return summed


def totals(*parts: Tensor) -> tuple[Tensor, ...]:
    """Return the `total` of each of several tensors of one dtype on one device; one message carries them all."""
    if world() == 1:
        return parts
    summed = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(summed)
    pieces = summed.split([part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))


def gather(x: Tensor) -> Tensor:
    """Return the x of every process, in the order of their numbers: ``[world, ...]``; all have one shape and dtype."""
    if world() == 1:
        return x[None]
    received = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(received, x)
    return torch.stack(received)


def agreed(yes: bool) -> bool:
    """Return whether ``yes`` is true in any process; the result is the same in each process."""
    return yes if world() == 1 else bool(total(torch.tensor(int(yes))))


def broadcast(value: T) -> T:
    """Return process 0's value in every process; it can be any value that can be pickled."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def parallel(network: nn.Module) -> nn.Module:
    """Return the network; for several processes, one that averages their gradients."""
    if world() == 1:
        return network
    # Parameters that a graph does not use, such as those of an auxiliary head, never have a gradient.
    return DistributedDataParallel(network, static_graph=True)


def barrier() -> None:
    """Wait until every process has called this function."""
    if world() > 1:
        dist.barrier()
