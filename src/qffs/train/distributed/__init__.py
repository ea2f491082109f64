"""Several processes, started by ``torchrun``, that compute as one; with one process, these functions change nothing.

>>> share(5), total(torch.ones(2)), broadcast("resume")
(tensor([0, 1, 2, 3, 4]), tensor([1., 1.]), 'resume')
"""

from qffs.train.distributed.batch_norm import synchronized
from qffs.train.distributed.group import (
    agreed,
    barrier,
    broadcast,
    gather,
    parallel,
    processes,
    rank,
    share,
    total,
    totals,
    world,
)

__all__ = [
    "agreed",
    "barrier",
    "broadcast",
    "gather",
    "parallel",
    "processes",
    "rank",
    "share",
    "synchronized",
    "total",
    "totals",
    "world",
]
