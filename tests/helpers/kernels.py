from collections.abc import Sequence

from torch import Tensor

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels import neuron as kernel
from qffs.kernels.cpu.queue import Queue
from qffs.kernels.layer import Neurons, Signal, computed
from qffs.method import FiringRule


def fire(
    inputs: Sequence[Signal],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
    compiled: bool = True,
) -> SparseSteps:
    """What a layer of neurons sends, computed at once."""
    layer = Neurons(inputs, constant, charge, threshold, highest, rule)
    return computed(kernel.enqueue(Queue(), layer, compiled))
