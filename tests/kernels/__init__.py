from collections.abc import Sequence

from torch import Tensor

from qffs.functional.rows import Rows
from qffs.kernels import fire as kernel
from qffs.kernels.neurons import Neurons, Signal
from qffs.kernels.queue import Queue
from qffs.kernels.synapses import computed
from qffs.levels import FiringRule


def fire(
    inputs: Sequence[Signal],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
    compiled: bool = True,
) -> Rows:
    """What a layer of neurons sends, computed at once."""
    layer = Neurons(inputs, constant, charge, threshold, highest, rule)
    return computed(kernel.enqueue(Queue(), layer, compiled))
